"""M: what a replica would lose by making room.

1. Room needed beyond what is free is taken from the runs of blocks that LRU
   would evict next (`PrefixTree.held` keeps them in that order).
2. Losing run j costs prefill_time(len j) x N_j seconds, N_j being the share of
   the replica's requests in the window H that used it (paper, section 3.2).
   A run that nobody used in H costs nothing.
3. The running sums over the next victims are kept until the cache or its order
   changes, so that a decision mostly reads them.

Events say store and remove but not touch: recency is that of our placements.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.time_model import TimeModel
from preble_plugin.core.usage import uses_in_window

VICTIM_RUNS: Final = 256
"""Runs looked at; the price of what lies beyond is taken as theirs on average."""


class EvictionPrice:
    """The price of room on one replica."""

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
        self._blocks: list[int] = []
        self._seconds: list[float] = []
        self._stale = True
        self._more = False
        self._cut = False

    def changed(self) -> None:
        """The cache, or the order of its use, is no longer what it was. O(1)."""
        self._stale = True

    def seconds(self, blocks: int, requests_in_window: float, now: float) -> float:
        """Seconds of prefill lost by evicting the next `blocks` blocks.
        O(log victims), or O(victims) after a change."""
        if blocks <= 0 or requests_in_window <= 0:
            return 0.0
        if self._stale or (self._more and self._blocks[-1] < blocks):
            self._sum(blocks, now)
        if not self._blocks:
            return 0.0
        place = bisect_left(self._blocks, blocks)
        if place < len(self._blocks):
            lost = self._seconds[place]
        else:
            lost = self._seconds[-1]
            if self._cut:
                lost *= blocks / self._blocks[-1]
        return lost / requests_in_window

    def _sum(self, blocks: int, now: float) -> None:
        self._blocks.clear()
        self._seconds.clear()
        freed, lost = 0, 0.0
        column, size = self._column, self._block_size
        for node in self._tree.held[column]:
            run = node.holds(column).bit_count()
            freed += run
            uses = uses_in_window(node, column, now, self._window_seconds)
            if uses:
                lost += uses * self._model.prefill_seconds(run * size, (node.depth + run) * size)
            self._blocks.append(freed)
            self._seconds.append(lost)
            if freed >= blocks or len(self._blocks) >= VICTIM_RUNS:
                break
        self._cut = len(self._blocks) >= VICTIM_RUNS
        self._more = 0 < len(self._blocks) < VICTIM_RUNS and freed >= blocks
        self._stale = False
