"""`preble serve` and SGLang's router (`sglang-router`) in front of the same servers."""
