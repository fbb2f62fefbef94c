"""Text to token ids, as the engines do it, with what was seen before kept.

1. The tokenizer is transformers' own, loaded as the engines load it, and never with code
   from the model's repository. A prompt is encoded whole; a conversation is rendered by the
   chat template and then encoded.
2. An added token that takes no white space with it (as `<|im_start|>`) cuts text into parts
   that are tokenized apart: what comes before it and what comes after never share a token.
   So a conversation costs only the messages that were not seen before.
3. Parts are kept by their text, least recently used first to go, bounded in bytes.
4. That cutting changes nothing is tried at start on texts of every kind; where it does, or
   with a tokenizer that is not of the fast kind, text is encoded whole.

Used from several threads at once.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ids: TypeAlias = NDArray[np.uint32]

_ENTRY_BYTES: Final = 200
"""What an entry costs beside its text and ids."""
_TRIED: Final = ("a b", " a  b ", "\n\na\n", "é.1,2", "")


class TokenizerError(RuntimeError):
    """A tokenizer that cannot be loaded, or a text that it cannot take."""


class Tokenizer:
    """One model's. `cache_bytes` bounds what is kept."""

    def __init__(self, loaded: Any, chat_template: str | None, cache_bytes: int) -> None:
        self._loaded = loaded
        self._template = chat_template
        self._backend = getattr(loaded, "backend_tokenizer", None)
        self._slow = threading.Lock()
        self._parts = _Parts(cache_bytes)
        self._cut: re.Pattern[str] | None = None
        self._cut = self._safe_cut()

    def encode(self, text: str, add_special_tokens: bool) -> Ids:
        """The ids of `text`. O(what was not seen before). Raises `TokenizerError`."""
        if add_special_tokens or self._cut is None:
            return self._part(text, add_special_tokens)
        starts = [found.start() for found in self._cut.finditer(text)]
        if not starts or starts == [0]:
            return self._part(text, False)
        if starts[0]:
            starts.insert(0, 0)
        ends = [*starts[1:], len(text)]
        parts = [self._part(text[a:b], False) for a, b in zip(starts, ends, strict=True)]
        return np.concatenate(parts)

    def render(
        self, messages: list[dict[str, Any]], tools: list[Any] | None, variables: dict[str, Any]
    ) -> str:
        """The conversation as text. Raises `TokenizerError`."""
        kept = {k: v for k, v in variables.items() if k not in ("chat_template", "tokenize")}
        try:
            text = self._loaded.apply_chat_template(
                messages, tools=tools, chat_template=self._template, tokenize=False, **kept
            )
        except Exception as error:  # a template may raise anything, and quote what it read
            name = type(error).__name__
            raise TokenizerError(f"the chat template raises {name}") from error
        if not isinstance(text, str):
            raise TokenizerError("the chat template gives no text")
        return text

    def template_names(self, word: str) -> bool:
        """Whether the chat template has `word` in quotes, as a role has to be."""
        template = self._template or getattr(self._loaded, "chat_template", None) or ""
        return f"'{word}'" in str(template) or f'"{word}"' in str(template)

    def _part(self, text: str, add_special_tokens: bool) -> Ids:
        key = (text, add_special_tokens)
        if (known := self._parts.get(key)) is not None:
            return known
        ids = np.asarray(self._encode(text, add_special_tokens), np.uint32)
        self._parts.put(key, ids, len(text) + ids.nbytes + _ENTRY_BYTES)
        return ids

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        try:
            if self._backend is not None:
                ids: list[int] = self._backend.encode(
                    text, add_special_tokens=add_special_tokens
                ).ids
                return ids
            with self._slow:
                return list(self._loaded.encode(text, add_special_tokens=add_special_tokens))
        except Exception as error:  # tokenizers raise plain exceptions
            raise TokenizerError(f"the tokenizer: {error}") from error

    def _safe_cut(self) -> re.Pattern[str] | None:
        """Where text may be cut: before each match."""
        added = getattr(self._loaded, "added_tokens_decoder", None)
        if self._backend is None or not isinstance(added, dict):
            return None
        safe = [
            str(token.content)
            for token in added.values()
            if token.special
            and token.content
            and not (token.lstrip or token.rstrip or token.single_word or token.normalized)
        ]
        if not safe:
            return None
        cut = re.compile("|".join(map(re.escape, sorted(safe, key=len, reverse=True))))
        for token in safe:
            for before in _TRIED:
                for after in _TRIED:
                    whole = f"{before}{token}{after}"
                    left = self._encode(before, False)
                    if self._encode(whole, False) != left + self._encode(token + after, False):
                        return None
        return cut


class _Parts:
    """Ids by their text, within `most_bytes`."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[tuple[str, bool], tuple[Ids, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, bool]) -> Ids | None:
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: tuple[str, bool], ids: Ids, size: int) -> None:
        if size > self._most_bytes // 4:
            return
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = (ids, size)
            self._bytes += size
            while self._bytes > self._most_bytes:
                _, (_, gone) = self._kept.popitem(last=False)
                self._bytes -= gone


def load_tokenizer(name: str, chat_template: str | None, cache_bytes: int) -> Tokenizer:
    """The tokenizer of this directory or name. Takes seconds. Raises `TokenizerError`."""
    try:
        from transformers import AutoTokenizer

        # NOTE: as the engines, but never with code that came with the model.
        loaded = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TokenizerError(f"tokenizer {name!r} cannot be loaded: {first}") from error
    return Tokenizer(loaded, chat_template, cache_bytes)
