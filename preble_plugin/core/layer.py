"""One layer of a replica's cache: an attention group in a medium."""

from __future__ import annotations

from collections import Counter
from typing import Final

from preble_plugin.core.events import Attention, EngineHash
from preble_plugin.core.names import Names

GPU: Final = "GPU"
_CREDITS: Final = {GPU: 1.0, "CPU": 0.75, "CPU_PINNED": 0.75}
_OTHER_CREDIT: Final = 0.25


class Layer:
    """The blocks of one attention group in one medium, in a column of the tree."""

    __slots__ = (
        "attention",
        "column",
        "credit",
        "group",
        "medium",
        "more_copies",
        "names",
        "turn",
        "unplaced",
        "window_blocks",
    )

    def __init__(
        self,
        column: int,
        group: int,
        attention: Attention,
        window_blocks: int,
        medium: str,
        turn: int = 0,
    ) -> None:
        self.column = column
        self.group = group
        self.medium = medium
        self.turn = turn
        """0, or which further hash of its blocks this layer is for."""
        self.attention = attention
        self.window_blocks = window_blocks
        """Blocks that must be held before a hit's end; 0 for full attention."""
        self.credit = _CREDITS.get(medium, _OTHER_CREDIT)
        """Share of a block's prefill that a hit here saves: a fetch from a slower
        medium costs the rest (the credits that NVIDIA Dynamo's router uses)."""
        self.names = Names()
        self.more_copies: Counter[EngineHash] = Counter()
        """Copies of a block beyond the first."""
        self.unplaced: Counter[EngineHash] = Counter()
        """Copies of hashes whose place in the tree is not known."""

    def clear(self) -> None:
        """Hold nothing."""
        self.names.clear()
        self.more_copies.clear()
        self.unplaced.clear()
