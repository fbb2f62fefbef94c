"""Stores that wait for their parent, and what was removed of them meanwhile.

A store may name a parent that no event has told of yet: one that is lost, and comes
with a replay, or that never comes. So they wait, bounded; the oldest give way.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from preble_plugin.core.events import EngineHash, Store
from preble_plugin.core.layer import Layer

ASIDE_STORES: Final = 4096
"""Stores with an unknown parent kept per replica."""


class Aside:
    """A store that waits."""

    __slots__ = ("layer", "removed", "store")

    def __init__(self, store: Store, layer: Layer) -> None:
        self.store = store
        self.layer = layer
        self.removed: list[EngineHash] = []
        """Of its blocks, what is gone already."""


class Asides:
    """All that wait on one replica. Every method is O(blocks of the stores it is about)."""

    def __init__(self) -> None:
        self._by_parent: OrderedDict[EngineHash, deque[Aside]] = OrderedDict()
        self._count = 0
        self._by_name: dict[tuple[int, EngineHash], list[Aside]] = {}
        """Those that name a hash, by column and hash."""

    def __len__(self) -> int:
        return self._count

    def add(self, parent: EngineHash, store: Store, layer: Layer) -> bool:
        """Let a store wait for `parent`; False where the oldest gave way for it."""
        aside = Aside(store, layer)
        self._by_parent.setdefault(parent, deque()).append(aside)
        self._count += 1
        for name in store.hashes:
            self._by_name.setdefault((layer.column, name), []).append(aside)
        if self._count <= ASIDE_STORES:
            return True
        oldest, waiting = next(iter(self._by_parent.items()))
        self._leave(waiting.popleft())
        if not waiting:
            del self._by_parent[oldest]
        return False

    def take(self, parent: EngineHash) -> list[Aside]:
        """Those that wait for `parent`, in order; they wait no more."""
        ready = list(self._by_parent.pop(parent, ()))
        for aside in ready:
            self._leave(aside)
        return ready

    def remove(self, layer: Layer, name: EngineHash) -> bool:
        """A block is removed before it is stored; False if none of that name waits."""
        waiting = self._by_name.get((layer.column, name))
        if waiting is None:
            return False
        waiting.pop().removed.append(name)
        if not waiting:
            del self._by_name[layer.column, name]
        return True

    def clear(self) -> None:
        """Nothing waits."""
        self._by_parent.clear()
        self._by_name.clear()
        self._count = 0

    def _leave(self, aside: Aside) -> None:
        self._count -= 1
        for name in aside.store.hashes:
            waiting = self._by_name.get((aside.layer.column, name))
            if waiting is not None and aside in waiting:
                waiting.remove(aside)
                if not waiting:
                    del self._by_name[aside.layer.column, name]
