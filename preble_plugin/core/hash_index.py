"""Which block each engine hash of one layer names.

1. Hashes that are stored in a row name blocks in a row: a *run* keeps them with
   the depth of the first block and the tree's node of the last. So a block costs
   one entry in a dict and one in a list, and no object of its own.
2. A store that continues where a run of the same index ends makes it longer, up to
   `LONGEST_RUN`: a sequence that grows block by block stays one run.
3. Hashes that name blocks in a row, forwards or backwards, are taken out together:
   engines evict prompts from their end, or list a whole node.

A hash names one block here, and a block may have several hashes. A run belongs to one
index: others get its places, never the run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from preble_plugin.core.events import EngineHash
from preble_plugin.core.node import Node

LONGEST_RUN: Final = 512
"""Blocks; to find one in a run takes some 10 ns for each before it."""

Place: TypeAlias = tuple[Node, int]
"""A block: a node at or below it (or what that node became), and its depth."""


Taken: TypeAlias = tuple[Node, int, int]
"""Blocks in a row whose hashes were taken out: a node at or below the last of them, the
depth of the first, and their number."""


class Run:
    """Blocks in a row, and their hashes."""

    __slots__ = ("depth", "hashes", "node")

    def __init__(self, node: Node, depth: int, hashes: list[EngineHash | None]) -> None:
        self.node = node
        """One at or below the last of them, or what it became."""
        self.depth = depth
        """Blocks before the first of them."""
        self.hashes = hashes
        """None where a hash was taken out; the last one is there."""

    def depth_of(self, engine_hash: EngineHash) -> int:
        """Blocks before the one of that hash, which is in the run."""
        hashes = self.hashes
        last = len(hashes) - 1
        return self.depth + (last if hashes[last] == engine_hash else hashes.index(engine_hash))


class HashIndex:
    """The engine hashes of one layer."""

    __slots__ = ("_run_of",)

    def __init__(self) -> None:
        self._run_of: dict[EngineHash, Run] = {}

    def __len__(self) -> int:
        return len(self._run_of)

    def __contains__(self, engine_hash: EngineHash) -> bool:
        return engine_hash in self._run_of

    def __iter__(self) -> Iterator[EngineHash]:
        return iter(self._run_of)

    def runs(self) -> list[Run]:
        """All runs. O(hashes), 20 ns each."""
        return list(dict.fromkeys(self._run_of.values()))

    def find(self, engine_hash: EngineHash) -> Place | None:
        """The block of a hash, or None for one that is unknown. O(1)."""
        run = self._run_of.get(engine_hash)
        return None if run is None else (run.node, run.depth_of(engine_hash))

    def add(
        self, hashes: Sequence[EngineHash], node: Node, depth: int, parent: EngineHash | None
    ) -> bool:
        """Name the blocks from `depth` on, the last of which ends in `node`; `parent` is
        a hash of the block before them. False, and nothing done, if one of them is known
        already or comes twice. O(hashes)."""
        run_of, count = self._run_of, len(hashes)
        after = None if parent is None else run_of.get(parent)
        if after is not None and (
            after.hashes[-1] != parent
            or after.depth + len(after.hashes) != depth
            or len(after.hashes) + count > LONGEST_RUN
        ):
            after = None
        if count == 1:
            engine_hash = hashes[0]
            if engine_hash in run_of:
                return False
            if after is None:
                run_of[engine_hash] = Run(node, depth, [engine_hash])
            else:
                after.hashes.append(engine_hash)
                after.node = node
                run_of[engine_hash] = after
            return True
        if not run_of.keys().isdisjoint(hashes) or len(set(hashes)) != count:
            return False
        if after is not None:
            run_of.update(dict.fromkeys(hashes, after))
            after.hashes += hashes
            after.node = node
            return True
        for first in range(0, count, LONGEST_RUN):
            piece: list[EngineHash | None] = [*hashes[first : first + LONGEST_RUN]]
            run = Run(node, depth + first, piece)
            run_of.update(dict.fromkeys(hashes[first : first + LONGEST_RUN], run))
        return True

    def take(self, hashes: Sequence[EngineHash], first: int) -> Taken | None:
        """Take out the hashes from number `first` on, as many as name blocks in a row,
        in either direction; None if the first of them is unknown. O(their number)."""
        run = self._run_of.get(hashes[first])
        if run is None:
            return None
        held = run.hashes
        place = run.depth_of(hashes[first]) - run.depth
        count, low = 1, place
        if first + 1 < len(hashes):
            if place + 1 < len(held) and held[place + 1] == hashes[first + 1]:
                count = _alike(held[place : place + len(hashes) - first], hashes, first)
            elif place and held[place - 1] == hashes[first + 1]:
                low = max(0, place - (len(hashes) - first - 1))
                count = _alike(held[low : place + 1][::-1], hashes, first)
                low = place - count + 1
        if count == 1:
            del self._run_of[hashes[first]]
        else:
            gone = hashes[first : first + count]
            deque(map(self._run_of.__delitem__, gone), maxlen=0)
        if low + count == len(held):
            del held[low:]
            while held and held[-1] is None:
                held.pop()
        else:
            held[low : low + count] = [None] * count
        return run.node, run.depth + low, count

    def clear(self) -> None:
        """Forget all."""
        self._run_of.clear()


def _alike(held: list[EngineHash | None], hashes: Sequence[EngineHash], first: int) -> int:
    """How many of `held` are equal to `hashes` from number `first` on."""
    asked = hashes[first : first + len(held)]
    if held[: len(asked)] == asked:
        return len(asked)
    count = 0
    for one, other in zip(held, asked, strict=False):
        if one != other:
            break
        count += 1
    return count
