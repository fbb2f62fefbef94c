"""One layer of a replica's cache: an attention group in a medium."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from preble_plugin.core.events import Attention, EngineHash
from preble_plugin.core.hash_index import HashIndex

GPU: Final = "GPU"
SHARED: Final = "EXTERNAL"
"""The medium of a pool that all replicas read (`pool`)."""

Name = TypeVar("Name", bound=Hashable)


class Copies(Generic[Name]):
    """How many copies there are of each name; only counts above zero are kept."""

    __slots__ = ("_counts", "total")

    def __init__(self) -> None:
        self._counts: dict[Name, int] = {}
        self.total = 0

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, name: Name) -> bool:
        return name in self._counts

    def items(self) -> list[tuple[Name, int]]:
        """Names and their counts, in the order they came. O(names)."""
        return list(self._counts.items())

    def add(self, name: Name, count: int = 1) -> None:
        """Add copies. O(1)."""
        self._counts[name] = self._counts.get(name, 0) + count
        self.total += count

    def drop(self, name: Name) -> bool:
        """Drop one copy; False if there is none. O(1)."""
        count = self._counts.get(name)
        if count is None:
            return False
        self.total -= 1
        if count > 1:
            self._counts[name] = count - 1
        else:
            del self._counts[name]
        return True

    def pop(self, name: Name) -> int:
        """Drop all copies of a name that has some; returns their number. O(1)."""
        count = self._counts.pop(name)
        self.total -= count
        return count

    def first(self) -> Name:
        """The name that came first of those there are. O(1) amortised."""
        return next(iter(self._counts))

    def clear(self) -> None:
        """Drop all."""
        self._counts = {}
        self.total = 0


class Layer:
    """The blocks of one attention group in one medium, in a column of the tree."""

    __slots__ = (
        "attention",
        "column",
        "copies",
        "group",
        "index",
        "medium",
        "unplaced",
        "window_blocks",
    )

    def __init__(
        self, column: int, group: int, attention: Attention, window_blocks: int, medium: str
    ) -> None:
        self.column = column
        self.group = group
        self.medium = medium
        self.attention = attention
        self.window_blocks = window_blocks
        """Blocks that must be held before a hit's end; 0 for full attention."""
        self.index = HashIndex()
        self.copies: Copies[EngineHash] = Copies()
        """Copies beyond the first of each hash in the index."""
        self.unplaced: Copies[EngineHash] = Copies()
        """Copies of hashes whose block in the tree is not known yet."""

    @property
    def blocks(self) -> int:
        """Blocks held whose place is known, copies counted. O(1)."""
        return len(self.index) + self.copies.total

    def clear(self) -> None:
        """Hold nothing."""
        self.index.clear()
        self.copies.clear()
        self.unplaced.clear()
