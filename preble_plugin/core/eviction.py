"""M: what a replica would lose by making room.

1. Room needed beyond what is free is taken from the runs of blocks that LRU
   would evict next (`PrefixTree.held` keeps them in that order).
2. Losing run j costs prefill_time(len j) x N_j seconds, N_j being the share of
   the replica's requests in the window H that used it (paper, section 3.2).
   A run that nobody used in H costs nothing.

Events say store and remove but not touch: recency is that of our placements.
"""

from __future__ import annotations

from typing import Final

from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.time_model import TimeModel
from preble_plugin.core.usage import uses_in_window

VICTIM_RUNS: Final = 128
"""Runs looked at; the price of what lies beyond is taken as theirs on average."""


class EvictionPrice:
    """The price of room on one replica."""

    __slots__ = ("_block_size", "_column", "_model", "_tree", "_window_seconds")

    def __init__(
        self,
        tree: PrefixTree,
        column: int,
        model: TimeModel,
        block_size: int,
        window_seconds: float,
    ) -> None:
        self._tree = tree
        self._column = column
        self._model = model
        self._block_size = block_size
        self._window_seconds = window_seconds

    def uses_lost_seconds(self, blocks: int, now: float) -> float:
        """Prefill of the next `blocks` blocks to be evicted, once for each use in the
        window: over the requests in it, the seconds lost. O(victims)."""
        freed, seconds = 0, 0.0
        column, window, size = self._column, self._window_seconds, self._block_size
        bit = 1 << column
        for looked_at, node in enumerate(self._tree.held[column]):
            if looked_at == VICTIM_RUNS:
                return seconds * blocks / freed
            run = node.size if node.holders & bit else node.holds(column).bit_count()
            freed += run
            if node.uses and column in node.uses:
                uses = uses_in_window(node, column, now, window)
                if uses:
                    context = (node.depth + run) * size
                    seconds += uses * self._model.prefill_seconds(run * size, context)
            if freed >= blocks:
                break
        return seconds
