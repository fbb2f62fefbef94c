"""Which block each engine hash of one layer names.

1. Hashes that were stored in a row name blocks in a row: a *run* keeps them with
   the depth of the first block and the tree's node of the last. So a block costs
   one entry in a dict and one in a list, and no object of its own.
2. A store that goes on where a run ends makes it longer, up to `LONGEST_RUN`: a
   sequence that grows block by block stays one run.
3. Hashes that name blocks in a row, forwards or backwards, are taken out together:
   engines evict prompts from their end, or list a whole node.

A hash names one block here; the block stands in the tree as long as it does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from preble_plugin.core.events import EngineHash
from preble_plugin.core.node import Node

LONGEST_RUN: Final = 512
"""Blocks; to find one in a run takes some 10 ns for each before it."""


class Run:
    """Blocks in a row, and their names."""

    __slots__ = ("depth", "names", "node")

    def __init__(self, node: Node, depth: int, names: list[EngineHash | None]) -> None:
        self.node = node
        """One at or below the last of them, or what it became."""
        self.depth = depth
        """Blocks before the first of them."""
        self.names = names
        """None where a block is gone; the last one is there."""

    def depth_of(self, name: EngineHash) -> int:
        """Blocks before the one of that name, which is in the run."""
        names = self.names
        last = len(names) - 1
        return self.depth + (last if names[last] == name else names.index(name))


class Names:
    """The engine hashes of one layer."""

    __slots__ = ("_run_of",)

    def __init__(self) -> None:
        self._run_of: dict[EngineHash, Run] = {}

    def __len__(self) -> int:
        return len(self._run_of)

    def __contains__(self, name: EngineHash) -> bool:
        return name in self._run_of

    def __iter__(self) -> Iterator[EngineHash]:
        return iter(self._run_of)

    def runs(self) -> list[Run]:
        """All runs. O(hashes), 20 ns each."""
        return list(dict.fromkeys(self._run_of.values()))

    def find(self, name: EngineHash) -> Run | None:
        """The run of a hash, or None for one that is unknown. O(1)."""
        return self._run_of.get(name)

    def add(
        self, names: Sequence[EngineHash], node: Node, depth: int, after: Run | None = None
    ) -> bool:
        """Name the blocks from `depth` on, the last of which ends in `node`; `after` is
        the run that the block before them is in. False, and nothing done, if one of them
        is known already or comes twice. O(names)."""
        run_of, count = self._run_of, len(names)
        goes_on = (
            after is not None
            and after.depth + len(after.names) == depth
            and len(after.names) + count <= LONGEST_RUN
        )
        if count == 1:
            name = names[0]
            if name in run_of:
                return False
            if goes_on and after is not None:
                after.names.append(name)
                after.node = node
                run_of[name] = after
            else:
                run_of[name] = Run(node, depth, [name])
            return True
        if not run_of.keys().isdisjoint(names) or len(set(names)) != count:
            return False
        if goes_on and after is not None:
            run_of.update(dict.fromkeys(names, after))
            after.names += names
            after.node = node
            return True
        for first in range(0, count, LONGEST_RUN):
            piece: list[EngineHash | None] = [*names[first : first + LONGEST_RUN]]
            run = Run(node, depth + first, piece)
            run_of.update(dict.fromkeys(names[first : first + LONGEST_RUN], run))
        return True

    def take(self, run: Run, names: Sequence[EngineHash], first: int) -> tuple[int, int]:
        """Forget of `names` from number `first` on, the first of which is in `run`, as
        many as name blocks of it in a row; returns the least depth and the count.
        O(their number)."""
        depth = run.depth_of(names[first])
        place = depth - run.depth
        count, low = 1, place
        if first + 1 < len(names):
            if place + 1 < len(run.names) and run.names[place + 1] == names[first + 1]:
                count = _alike(run.names[place : place + len(names) - first], names, first)
            elif place and run.names[place - 1] == names[first + 1]:
                low = max(0, place - (len(names) - first - 1))
                count = _alike(run.names[low : place + 1][::-1], names, first)
                low = place - count + 1
        if count == 1:
            del self._run_of[names[first]]
        else:
            gone = names[first : first + count]
            deque(map(self._run_of.__delitem__, gone), maxlen=0)
        if low + count == len(run.names):
            del run.names[low:]
            while run.names and run.names[-1] is None:
                run.names.pop()
        else:
            run.names[low : low + count] = [None] * count
        return run.depth + low, count

    def clear(self) -> None:
        """Forget all."""
        self._run_of.clear()


def _alike(held: list[EngineHash | None], names: Sequence[EngineHash], first: int) -> int:
    """How many of `held` are equal to `names` from number `first` on."""
    asked = names[first : first + len(held)]
    if held[: len(asked)] == asked:
        return len(asked)
    count = 0
    for one, other in zip(held, asked, strict=False):
        if one != other:
            break
        count += 1
    return count
