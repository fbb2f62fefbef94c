"""The SGLang adapter: the flag, and the dispatch in the data-parallel controller."""
