"""First come, first served: what waits on a replica without a local queue.

The calls are those of core's `LocalQueue`, so that a replica runs on either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FirstCome(Generic[T]):
    """The engines' own order. Every method is O(1)."""

    __slots__ = ("_items",)

    def __init__(self) -> None:
        self._items: deque[T] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def add(self, item: T, prompt_tokens: int) -> None:
        """Behind all others, however long its prompt."""
        self._items.append(item)

    def put_back(self, item: T) -> None:
        """Before all others."""
        self._items.appendleft(item)

    def begin_step(self) -> None:
        """Nothing is looked at."""

    def peek(self) -> T:
        """The first. Raises IndexError where nothing waits."""
        return self._items[0]

    def pop(self) -> T:
        """Take the first."""
        return self._items.popleft()
