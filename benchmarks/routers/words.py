"""The simulator's streams as text: `sglang-router` takes no token ids.

Each token of a stream is a word that is one token of the tiny model's vocabulary, so that
texts share prefixes as the streams do, and a prompt is as long as the workload says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from preble_plugin.sim.asked import stream_tokens


class Words:
    """Prompts of text, for the model in `directory`."""

    def __init__(self, directory: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(directory / "tokenizer.json"))
        found = sorted(filter(self._whole, map(self._text, self._tokenizer.get_vocab())))
        self._words = np.array(found)

    def part(self, stream: int, tokens: int) -> str:
        """The first `tokens` words of a stream, each with a space before it."""
        return "".join(self._words[stream_tokens(stream, tokens) % len(self._words)])

    def answer(self, token_ids: Sequence[int]) -> str:
        """What an engine answered; ids that make no character may read otherwise again."""
        text: str = self._tokenizer.decode(list(token_ids))
        return text

    def prompt(self, parts: Sequence[str]) -> str:
        """All of it."""
        return "".join(parts)

    def _text(self, token: str) -> str:
        # Byte-level BPE writes a space as this letter.
        return token.replace("\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", " ")

    def _whole(self, text: str) -> bool:
        word = text[1:]
        plain = text.startswith(" ") and word.isascii() and word.isalpha()
        return plain and len(self._tokenizer.encode(text).ids) == 1
