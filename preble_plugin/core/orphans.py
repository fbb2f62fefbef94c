"""Stores whose parent is unknown, and what was removed of them meanwhile.

An event may name a parent that no event has stored yet: that event is lost, and comes
with a replay, or it never comes. So these stores wait, bounded; the oldest give way.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Final

from preble_plugin.core.events import EngineHash, Store
from preble_plugin.core.layer import Layer

ORPHAN_STORES: Final = 4096
"""Stores with an unknown parent kept per replica."""


class Orphan:
    """A store that waits for its parent. Compared by identity."""

    __slots__ = ("layer", "left", "removed", "store")

    def __init__(self, store: Store, layer: Layer) -> None:
        self.store = store
        self.layer = layer
        self.left = Counter(store.hashes)
        """Its hashes that are not removed yet."""
        self.removed: list[EngineHash] = []


class OrphanStores:
    """All that wait on one replica. Every method is O(blocks of the stores it is about),
    in whatever order they come."""

    def __init__(self) -> None:
        self._by_parent: OrderedDict[EngineHash, dict[Orphan, None]] = OrderedDict()
        self._by_hash: dict[tuple[int, EngineHash], dict[Orphan, None]] = {}
        """Those that have a hash left, by column and hash; the latest last."""
        self.count = 0

    def add(self, store: Store, layer: Layer) -> Orphan | None:
        """Let a store wait for its parent; returns the oldest one if it gave way. One
        whose blocks are all removed waits no more."""
        orphan = Orphan(store, layer)
        assert store.parent is not None
        self._by_parent.setdefault(store.parent, {})[orphan] = None
        self.count += 1
        for engine_hash in orphan.left:
            self._by_hash.setdefault((layer.column, engine_hash), {})[orphan] = None
        if self.count <= ORPHAN_STORES:
            return None
        oldest = next(iter(next(iter(self._by_parent.values()))))
        for engine_hash in oldest.left:
            self._unlist(oldest, engine_hash)
        self._leave(oldest)
        return oldest

    def take(self, parent: EngineHash) -> list[Orphan]:
        """Those that wait for `parent`, in order; they wait no more."""
        ready = list(self._by_parent.pop(parent, ()))
        self.count -= len(ready)
        for orphan in ready:
            for engine_hash in orphan.left:
                self._unlist(orphan, engine_hash)
        return ready

    def remove(self, layer: Layer, engine_hash: EngineHash) -> bool:
        """A block is removed before it is stored; False if no store of it waits."""
        waiting = self._by_hash.get((layer.column, engine_hash))
        if waiting is None:
            return False
        orphan = next(reversed(waiting))
        orphan.removed.append(engine_hash)
        orphan.left[engine_hash] -= 1
        if not orphan.left[engine_hash]:
            del orphan.left[engine_hash]
            self._unlist(orphan, engine_hash)
        if not orphan.left:
            self._leave(orphan)
        return True

    def clear(self) -> None:
        """Nothing waits."""
        self.__init__()  # type: ignore[misc]

    def _leave(self, orphan: Orphan) -> None:
        parent = orphan.store.parent
        assert parent is not None
        waiting = self._by_parent[parent]
        del waiting[orphan]
        if not waiting:
            del self._by_parent[parent]
        self.count -= 1

    def _unlist(self, orphan: Orphan, engine_hash: EngineHash) -> None:
        key = orphan.layer.column, engine_hash
        waiting = self._by_hash[key]
        del waiting[orphan]
        if not waiting:
            del self._by_hash[key]
