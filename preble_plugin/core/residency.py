"""What one replica's cache holds, from the events it publishes.

1. A store names its blocks by engine hashes, opaque to us, and says after which
   block they come. The hash leads to a block id of the prefix tree; the tokens
   give the keys that prompts find the block by.
2. A hash may be held more than once: engines announce each physical copy, and
   each attention group and medium on its own. Copies are counted per hash in
   each *layer* (group and medium); a block is gone at zero.
3. Positions come from full attention. Other groups may name fewer blocks than
   they list tokens for: those are found by hash.
4. A store whose parent is unknown is kept aside until the parent comes.

Cost per block: one dict operation, and one bitmap operation per run of blocks.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from typing import Final, TypeVar

from preble_plugin.core.block_keys import BlockHasher, TokenIdError
from preble_plugin.core.events import Attention, CacheEvent, EngineHash, Remove, Store
from preble_plugin.core.prefix_tree import PrefixTree

_Key = TypeVar("_Key", EngineHash, int)

ASIDE_STORES: Final = 4096
"""Stores with an unknown parent kept per replica; the oldest give way."""

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
        self.credit = _CREDITS.get(medium, _OTHER_CREDIT)
        """Share of a block's prefill that a hit here saves: a fetch from a slower
        medium costs the rest (the credits that NVIDIA Dynamo's router uses)."""
        self.more_copies: Counter[int] = Counter()
        """Copies of a block beyond the first, under whatever hash."""
        self.unplaced: Counter[EngineHash] = Counter()
        """Copies of hashes whose place in the tree is not known."""

    def clear(self) -> None:
        """Hold nothing."""
        self.more_copies.clear()
        self.unplaced.clear()


class _Aside:
    """A store that waits for its parent, and what was removed of it meanwhile."""

    __slots__ = ("layer", "removed", "store")

    def __init__(self, store: Store, layer: Layer) -> None:
        self.store = store
        self.layer = layer
        self.removed: list[EngineHash] = []


class Residency:
    """One replica's cache in the prefix tree. `column` is that of full attention
    on the GPU, which placements also expect blocks in."""

    def __init__(self, tree: PrefixTree, hasher: BlockHasher, max_tree_blocks: int) -> None:
        self._tree = tree
        self.hasher = hasher
        self._max_tree_blocks = max_tree_blocks
        self.column = tree.add_column()
        self.main = Layer(self.column, 0, Attention.FULL, 0, GPU)
        self._main_known = False
        self.layers: dict[tuple[int, str], Layer] = {}
        """Layers other than the main one."""
        self.ids: dict[EngineHash, int] = {}
        """Block ids by engine hash, for all layers."""
        self._names: dict[int, set[EngineHash]] = {}
        """Hashes of blocks with more than one (an engine may hash what its events
        leave out, such as a LoRA's path): those after the first, and the first
        once a copy of it is removed."""
        self._aside: OrderedDict[EngineHash, deque[_Aside]] = OrderedDict()
        """Stores that wait, by the parent they wait for."""
        self._asides = 0
        self._aside_of: dict[tuple[int, EngineHash], list[_Aside]] = {}
        """The waiting stores that name a hash, by column and hash."""
        self.copies = 0
        """Blocks of full attention held on the GPU, copies counted."""
        self.skipped: Counter[str] = Counter()
        """Events that were not applied, by cause."""

    # -- events ------------------------------------------------------------------

    def apply(self, event: CacheEvent) -> bool:
        """Apply one event; False where it was skipped, counted in `skipped`."""
        if isinstance(event, Remove):
            return self._remove(event)
        if isinstance(event, Store):
            return self._store(event)
        self.clear()
        return True

    def clear(self) -> None:
        """The cache is empty. O(what it held)."""
        for layer in (self.main, *self.layers.values()):
            self._tree.clear(layer.column)
            layer.clear()
        self.ids.clear()
        self._aside.clear()
        self._aside_of.clear()
        self._asides = 0
        self._names.clear()
        self.copies = 0

    def close(self) -> None:
        """Forget everything and give the columns back."""
        self.clear()
        for layer in (self.main, *self.layers.values()):
            self._tree.remove_column(layer.column)
        self.layers.clear()

    def hold(
        self, layer: Layer, hashes: Sequence[EngineHash], parent: int | None, keys: bytes
    ) -> None:
        """Hold in `layer` a run of blocks with these keys below the block `parent`
        (None: at the start). `hashes` and `keys` name the same blocks. O(blocks)."""
        blocks = self._tree.chain(parent, keys, layer.column)
        before = self._tree.hold(layer.column, blocks)
        ids = self.ids
        if not before and not self.layers and not any(map(ids.__contains__, hashes)):
            ids.update(zip(hashes, blocks, strict=True))
        else:
            for engine_hash, block in zip(hashes, blocks, strict=True):
                had = ids.get(engine_hash)
                if had is None:
                    ids[engine_hash] = block
                    if block in before or self._held_elsewhere(layer, block):
                        self._names.setdefault(block, set()).add(engine_hash)
                    if block in before:
                        layer.more_copies[block] += 1
                elif had != block:
                    # The engine calls it the same: a copy of what it named so first.
                    self.skipped["hash_moved"] += 1
                    if block not in before:
                        self._tree.release(layer.column, block)
                    if self._tree.hold(layer.column, [had]):
                        layer.more_copies[had] += 1
                elif block in before:
                    layer.more_copies[block] += 1
        if layer is self.main:
            self.copies += len(hashes)
        for other in self.layers.values():
            if other.unplaced:
                self._place(other, hashes)

    # -- stores --------------------------------------------------------------------

    def _store(self, event: Store) -> bool:
        applied = self._store_one(event)
        if applied and self._aside:
            ready = [event]
            while ready:
                for engine_hash in ready.pop().hashes:
                    for aside in self._aside.pop(engine_hash, ()):
                        self._leave_aside(aside)
                        if self._store_one(aside.store):
                            ready.append(aside.store)
                            for removed in aside.removed:
                                self._remove_one(aside.layer, removed)
        return applied

    def _store_one(self, event: Store) -> bool:
        layer = self._layer_of(event)
        own_size = event.block_size == self.hasher.block_size
        if event.attention is not Attention.FULL or not event.tokens or not own_size:
            if layer is self.main:
                return self._skip("block_size" if event.tokens else "no_tokens")
            for engine_hash in event.hashes:
                layer.unplaced[engine_hash] += 1
            self._place(layer, event.hashes)
            return True
        if len(event.tokens) != event.block_size * len(event.hashes):
            return self._skip("wrong_length")
        parent: int | None = None
        if event.parent is not None:
            parent = self.ids.get(event.parent)
            if parent is None:
                self._set_aside(event, layer)
                return True
        if self._tree.blocks + len(event.hashes) > self._max_tree_blocks:
            return self._skip("tree_full")
        try:
            keys = self.hasher.stored_keys(
                event.tokens, event.parent is None, event.namespace, event.features
            )
        except TokenIdError:
            return self._skip("token_id")
        self.hold(layer, event.hashes, parent, keys)
        return True

    def _layer_of(self, event: Store) -> Layer:
        if not self._main_known and event.attention is Attention.FULL and event.medium == GPU:
            self.main.group = event.group
            self._main_known = True
        name = (event.group, event.medium)
        if self._main_known and name == (self.main.group, GPU):
            return self.main
        window = -(-((event.window_tokens or 2) - 1) // self.hasher.block_size)
        window = 0 if event.attention is Attention.FULL else max(window, 1)
        return self.layer(event.group, event.medium, event.attention, window)

    def layer(self, group: int, medium: str, attention: Attention, window_blocks: int) -> Layer:
        """The layer of a group in a medium, made where it is missing. O(1)."""
        found = self.layers.get((group, medium))
        if found is None:
            column = self._tree.add_column()
            found = Layer(column, group, attention, window_blocks, medium)
            self.layers[group, medium] = found
        return found

    def restore_layer(
        self,
        layer: Layer,
        group: int,
        parents: Sequence[int],
        edges: Sequence[bytes],
        places: Sequence[tuple[EngineHash, int, int]],
        more_copies: Sequence[tuple[EngineHash, int]],
    ) -> None:
        """Let `layer` hold what a snapshot says: runs of keys as a tree
        (`parents`, `edges`) and for each hash its run and offset. O(blocks)."""
        if layer is self.main:
            self._main_known = True
        layer.group = group
        runs: list[list[int]] = []
        for parent, edge in zip(parents, edges, strict=True):
            above = runs[parent][-1] if parent >= 0 else None
            runs.append(self._tree.chain(above, edge, layer.column))
        first: dict[int, EngineHash] = {}
        for engine_hash, run, offset in places:
            block = runs[run][offset]
            if self.ids.setdefault(engine_hash, block) == block:
                if self._tree.hold(layer.column, [block]):
                    self._names.setdefault(block, {first[block]}).add(engine_hash)
                else:
                    first[block] = engine_hash
        for engine_hash, count in more_copies:
            named = self.ids.get(engine_hash)
            if count > 0 and named is not None and self._tree.holds(layer.column, named):
                layer.more_copies[named] += count
        if layer is self.main:
            self.copies = len(first) + layer.more_copies.total()

    def _place(self, layer: Layer, hashes: Sequence[EngineHash]) -> None:
        """Mark in `layer` those of its unplaced hashes whose block is now known."""
        for engine_hash in hashes:
            block = self.ids.get(engine_hash)
            if block is None:
                continue
            copies = layer.unplaced.pop(engine_hash, 0)
            if copies and not self._tree.hold(layer.column, [block]):
                copies -= 1
            if copies:
                layer.more_copies[block] += copies
        while len(layer.unplaced) > ASIDE_STORES:
            del layer.unplaced[next(iter(layer.unplaced))]
            self._skip("unplaced_full")

    def _set_aside(self, event: Store, layer: Layer) -> None:
        assert event.parent is not None
        aside = _Aside(event, layer)
        self._aside.setdefault(event.parent, deque()).append(aside)
        self._asides += 1
        for engine_hash in event.hashes:
            self._aside_of.setdefault((layer.column, engine_hash), []).append(aside)
        if self._asides > ASIDE_STORES:
            parent, waiting = next(iter(self._aside.items()))
            self._leave_aside(waiting.popleft())
            if not waiting:
                del self._aside[parent]
            self._skip("unknown_parent")

    def _leave_aside(self, aside: _Aside) -> None:
        self._asides -= 1
        for engine_hash in aside.store.hashes:
            key = (aside.layer.column, engine_hash)
            waiting = self._aside_of.get(key)
            if waiting is not None and aside in waiting:
                waiting.remove(aside)
                if not waiting:
                    del self._aside_of[key]

    # -- removals --------------------------------------------------------------------

    def _remove(self, event: Remove) -> bool:
        layer = self.layers.get((event.group, event.medium))
        if layer is None and (event.group, event.medium) == (self.main.group, GPU):
            layer = self.main
        if layer is None:
            return self._skip("unknown_hash")
        known = True
        for engine_hash in event.hashes:
            known &= self._remove_one(layer, engine_hash)
        return known

    def _remove_one(self, layer: Layer, engine_hash: EngineHash) -> bool:
        block = self.ids.get(engine_hash)
        if block is None or not self._tree.holds(layer.column, block):
            if layer.unplaced.get(engine_hash):
                _drop_one(layer.unplaced, engine_hash)
                return True
            key = (layer.column, engine_hash)
            waiting = self._aside_of.get(key)
            if waiting is None:
                return self._skip("unknown_hash")
            waiting.pop().removed.append(engine_hash)
            if not waiting:
                del self._aside_of[key]
            return True
        if layer is self.main:
            self.copies -= 1
        if block in self._names:
            self._names[block].add(engine_hash)
        if layer.more_copies.get(block):
            _drop_one(layer.more_copies, block)
            return True
        if not self._held_elsewhere(layer, block):
            del self.ids[engine_hash]
            for name in self._names.pop(block, ()):
                self.ids.pop(name, None)
        self._tree.release(layer.column, block)
        return True

    def _held_elsewhere(self, layer: Layer, block: int) -> bool:
        """Whether a layer other than `layer` holds a block. O(layers)."""
        return bool(self.layers) and any(
            other is not layer and self._tree.holds(other.column, block)
            for other in (self.main, *self.layers.values())
        )

    def _skip(self, cause: str) -> bool:
        self.skipped[cause] += 1
        return False


def _drop_one(counts: Counter[_Key], key: _Key) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
