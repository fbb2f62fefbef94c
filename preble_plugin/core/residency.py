"""What one replica's cache holds, from the events it publishes.

1. A store names its blocks by engine hashes, opaque to us, and says after which
   block they come. The hash leads to a block of the prefix tree (`hash_index`); the
   tokens give the keys that prompts find the block by.
2. A hash may be held more than once: engines announce each physical copy, and
   each attention group and medium on its own. Copies are counted per hash in
   each *layer* (group and medium).
3. A block may have several hashes: an engine may hash what its events leave out (a
   LoRA's path). Each holds the block once in the tree; it is gone with the last.
4. Positions come from full attention. Other groups may list fewer hashes than
   blocks: those are found by hash.
5. A store ends in one of three ways (`EventOutcome`). A store whose parent is unknown waits
   until the parent comes (`orphans`). One that cannot be applied is skipped, and its
   hashes are missing until they are removed: meanwhile the residency is not complete.
6. A store in a medium other than the GPU goes by its hashes where these are known, and by
   its tokens where not: connectors leave tokens out, or what sets equal tokens apart.
7. What a shared pool holds stands in its own layers (`pool`), the same for all replicas.

Cost per block: one dict operation, and one bitmap operation per run of blocks.
"""

from __future__ import annotations

import enum
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from preble_plugin.core.block_keys import BlockHasher, TokenIdError
from preble_plugin.core.events import Attention, CacheEvent, EngineHash, Remove, Store
from preble_plugin.core.hash_index import Place
from preble_plugin.core.layer import GPU, SHARED, Copies, Layer
from preble_plugin.core.node import Node
from preble_plugin.core.orphans import OrphanStores
from preble_plugin.core.pool import Pool
from preble_plugin.core.prefix_tree import PrefixTree

UNPLACED_BLOCKS: Final = 4096
"""Hashes of a layer that may wait for their block."""

MISSING_BLOCKS: Final = 65_536
"""Hashes that are remembered as missing; with more, the residency stays
incomplete until it is cleared."""


class EventOutcome(enum.Enum):
    """What became of an event."""

    APPLIED = "applied"
    WAITING = "waiting"
    """It is kept until what it refers to is stored."""
    SKIPPED = "skipped"
    """It cannot be applied; the cause is counted."""


class Residency:
    """One replica's cache in the prefix tree. `column` is that of full attention
    on the GPU, which placements also expect blocks in."""

    def __init__(self, tree: PrefixTree, hasher: BlockHasher, pool: Pool) -> None:
        self._tree = tree
        self.pool = pool
        self.hasher = hasher
        self.column = tree.add_column()
        self.columns = 1 << self.column
        """Mask of the columns of all layers, those of the pool left out."""
        self.main = Layer(self.column, 0, Attention.FULL, 0, GPU)
        self.main_known = False
        """Whether a store has said which group is the main one."""
        self.layers: dict[tuple[int, str], Layer] = {}
        """Layers other than the main one, by group and medium."""
        self._orphans = OrphanStores()
        self._missing: Copies[tuple[int, EngineHash]] = Copies()
        """Copies of hashes whose store was skipped, by column: the replica has them."""
        self._missing_overflow = False
        self.complete = True
        """Whether no store that the replica still holds was skipped."""
        self.skipped: Counter[str] = Counter()
        """Events that were not applied, or not as they say, by cause."""

    @property
    def all_layers(self) -> tuple[Layer, ...]:
        """Every layer of its own, the main one first. O(layers)."""
        return (self.main, *self.layers.values())

    @property
    def copies(self) -> int:
        """Blocks of full attention held on the GPU, copies counted. O(1)."""
        return self.main.blocks

    @property
    def hash_count(self) -> int:
        """Hashes known, in all layers. O(layers)."""
        return sum(len(layer.index) for layer in self.all_layers)

    @property
    def orphan_count(self) -> int:
        """Stores that wait for their parent. O(1)."""
        return self._orphans.count

    @property
    def missing_blocks(self) -> int:
        """Blocks that the replica has and that were skipped, as far as they are
        remembered. O(1)."""
        return self._missing.total

    # -- events ------------------------------------------------------------------

    def apply(self, event: CacheEvent) -> EventOutcome:
        """Apply one event. O(blocks), and of what waited for them."""
        if isinstance(event, Store):
            outcome, held = self._store(event)
            if self._orphans.count and held:
                self._adopt(held)
            return outcome
        if isinstance(event, Remove):
            return self._remove(event)
        self.clear()
        return EventOutcome.APPLIED

    def clear(self) -> None:
        """The cache is empty. O(what it held)."""
        for layer in self.all_layers:
            self._tree.clear(layer.column)
            layer.clear()
        self._orphans.clear()
        self._missing.clear()
        self._missing_overflow = False
        self.complete = True

    def forget(self) -> None:
        """Nothing is known of the cache, nor which groups and media there are: the engine may
        be another. O(what it held + layers x nodes of the tree)."""
        self.clear()
        for layer in self.layers.values():
            self._tree.remove_column(layer.column)
        self.layers.clear()
        self.columns = 1 << self.column
        self.main.group, self.main_known = 0, False

    def close(self) -> None:
        """Forget everything and give the columns back."""
        self.forget()
        self._tree.remove_column(self.column)

    # -- layers --------------------------------------------------------------------

    def set_main(self, group: int) -> Layer:
        """Make the main layer that of this group. O(1)."""
        self.main.group, self.main_known = group, True
        return self.main

    def layer(self, group: int, medium: str, attention: Attention, window_blocks: int) -> Layer:
        """The layer of a group in a medium of its own, made where it is missing. O(1)."""
        found = self.layers.get((group, medium))
        if found is None:
            column = self._tree.add_column()
            found = Layer(column, group, attention, window_blocks, medium)
            self.layers[group, medium] = found
            self.columns |= 1 << column
        return found

    def _layer_of(self, event: Store) -> Layer:
        """The layer of a store that is not of the main one. O(1)."""
        found = self._known_layer(event.group, event.medium)
        if found is not None:
            return found
        attention = event.attention
        full = attention is Attention.FULL
        if full and event.medium == GPU and not self.main_known:
            return self.set_main(event.group)
        window = -(-((event.window_tokens or 2) - 1) // self.hasher.block_size)
        window = 0 if full else max(window, 1)
        on_gpu = self.layers.get((event.group, GPU))
        if on_gpu is not None:
            # A connector need not say of what kind a group is.
            attention, window = on_gpu.attention, on_gpu.window_blocks
        if event.medium == SHARED:
            return self.pool.layer(event.group, attention, window)
        return self.layer(event.group, event.medium, attention, window)

    def _known_layer(self, group: int, medium: str) -> Layer | None:
        """A layer other than the main one, if there is one. O(1)."""
        return (self.pool if medium == SHARED else self).layers.get((group, medium))

    def _find(self, layer: Layer, engine_hash: EngineHash) -> Place | None:
        """The block of a hash that any layer knows, `layer` first. O(layers)."""
        place = layer.index.find(engine_hash)
        if place is None and (self.layers or self.pool.layers):
            for other in (*self.all_layers, *self.pool.layers.values()):
                place = other.index.find(engine_hash)
                if place is not None:
                    break
        return place

    # -- stores --------------------------------------------------------------------

    def _store(self, event: Store) -> tuple[EventOutcome, Sequence[EngineHash]]:
        """Apply a store, but for what waits for it; also returns the hashes by which
        blocks are held now."""
        layer = self.main
        if not (self.main_known and event.group == layer.group and event.medium == GPU):
            layer = self._layer_of(event)
        hashes, parent = event.hashes, event.parent
        if layer.medium == SHARED:
            self.pool.make_room(layer, len(hashes))
        own_size = event.block_size == self.hasher.block_size
        if (
            event.attention is not Attention.FULL
            or not event.tokens
            or not own_size
            or (layer.medium != GPU and all(self._find(layer, one) for one in hashes))
        ):
            if layer is self.main:
                return self._skip(layer, hashes, "block_size" if event.tokens else "no_tokens")
            for engine_hash in hashes:
                if layer.medium != SHARED or not (
                    engine_hash in layer.index or engine_hash in layer.unplaced
                ):
                    layer.unplaced.add(engine_hash)
            self._place(layer, hashes, parent)
            held = [one for one in hashes if one in layer.index]
            whole = len(held) == len(hashes)
            return EventOutcome.APPLIED if whole else EventOutcome.WAITING, held
        if len(event.tokens) != event.block_size * len(hashes):
            return self._skip(layer, hashes, "wrong_length")
        ahead = self.hasher.lookahead_tokens
        if ahead and [len(one) for one in event.lookahead] != [ahead] * len(hashes):
            return self._skip(layer, hashes, "lookahead")
        above, depth = self._tree.root, 0
        if parent is not None:
            place = layer.index.find(parent) or self._find(layer, parent)
            if place is None:
                oldest = self._orphans.add(event, layer)
                if oldest is not None:
                    self._skip(oldest.layer, list(oldest.left.elements()), "unknown_parent")
                return EventOutcome.WAITING, ()
            above, depth = self._tree.at(*place), place[1] + 1
        try:
            keys = self.hasher.stored_keys(
                event.tokens, parent is None, event.namespace, event.features, event.lookahead
            )
        except TokenIdError:
            return self._skip(layer, hashes, "token_id")
        leaf, blocks, before = self._tree.hold(layer.column, above, depth, keys)
        known = hashes if blocks == len(hashes) else hashes[:blocks]
        if before or not layer.index.add(known, leaf, depth, parent):
            self._index_each(layer, known, leaf, depth, before)
        if layer.medium == SHARED:
            self._tree.touch(leaf, layer.column)
        if self.layers or self.pool.layers:
            for other in (*self.layers.values(), *self.pool.layers.values()):
                if other.unplaced.total:
                    self._place(other, known, parent)
        if blocks < len(hashes):
            return self._skip(layer, hashes[blocks:], "tree_full")[0], known
        return EventOutcome.APPLIED, known

    def _index_each(
        self,
        layer: Layer,
        hashes: Sequence[EngineHash],
        leaf: Node,
        depth: int,
        before: int,
    ) -> None:
        """Index blocks that `layer` has just come to hold; it held those in `before`
        already, and some of the hashes may be known."""
        tree, index, column = self._tree, layer.index, layer.column
        parent: EngineHash | None = None
        for number, engine_hash in enumerate(hashes):
            block = depth + number
            was_held = before >> number & 1
            known = index.find(engine_hash)
            if known is None:
                if was_held:
                    tree.hold_again(column, leaf, block)
                index.add([engine_hash], tree.at(leaf, block), block, parent)
                parent = engine_hash
                continue
            if layer.medium != SHARED:
                layer.copies.add(engine_hash)
            if known[1] == block and tree.at(*known) is tree.at(leaf, block):
                parent = engine_hash
                continue
            # The hash names another block: this is taken for a copy of that one.
            self.skipped["hash_moved"] += 1
            parent = None
            if not was_held:
                tree.release(column, leaf, block)

    def _place(self, layer: Layer, hashes: Sequence[EngineHash], parent: EngineHash | None) -> None:
        """Let `layer` hold those of its unplaced hashes whose block is known. They come
        in a row below `parent`, as far as the layer has them in a row."""
        tree, index, unplaced = self._tree, layer.index, layer.unplaced
        last: Node | None = None
        for engine_hash in hashes:
            above, parent = parent, engine_hash
            if engine_hash not in unplaced:
                continue
            place = self._find(layer, engine_hash)
            if place is None:
                continue
            more = unplaced.pop(engine_hash)
            if engine_hash not in index:
                node, depth = place
                if tree.hold_run(layer.column, node, depth, 1):
                    tree.hold_again(layer.column, node, depth)
                last = tree.at(node, depth)
                before = None if above is None else index.find(above)
                in_row = (
                    before is not None
                    and before[1] == depth - 1
                    and tree.at(*before) is tree.at(last, depth - 1)
                )
                index.add([engine_hash], last, depth, above if in_row else None)
                more -= 1
            if more and layer.medium != SHARED:
                layer.copies.add(engine_hash, more)
        if last is not None and layer.medium == SHARED:
            tree.touch(last, layer.column)
        while len(unplaced) > UNPLACED_BLOCKS:
            first = unplaced.first()
            copies = unplaced.pop(first)
            if layer.medium == GPU:
                self._skip(layer, [first] * copies, "unplaced_full")
            else:
                self.skipped["unplaced_full"] += 1

    def _adopt(self, hashes: Sequence[EngineHash]) -> None:
        """Apply the stores that waited for one of these blocks, and for theirs."""
        ready = deque([hashes])
        removed: list[tuple[Layer, EngineHash]] = []
        while ready:
            for engine_hash in ready.popleft():
                for orphan in self._orphans.take(engine_hash):
                    _, held = self._store(orphan.store)
                    ready.append(held)
                    removed += [(orphan.layer, one) for one in orphan.removed]
        for layer, engine_hash in removed:
            self._remove_one(layer, engine_hash)

    def restore_layer(
        self,
        layer: Layer,
        runs: Iterable[tuple[Node, int, int, Sequence[EngineHash | None]]],
        copies: Iterable[tuple[EngineHash, int]],
        unplaced: Iterable[tuple[EngineHash, int]],
    ) -> None:
        """Let `layer`, which is empty, hold what a snapshot says: runs as the node at the
        end of their path, the depth that it ends at, the depth of the first block, and
        the hashes, None where there is none. Blocks beyond the path's end are missing.
        O(blocks)."""
        for node, end, start, hashes in runs:
            fit = max(end - start, 0)
            for first, piece in _stretches(hashes[:fit]):
                before = self._tree.hold_run(layer.column, node, start + first, len(piece))
                self._index_each(layer, piece, node, start + first, before)
            if beyond := [one for one in hashes[fit:] if one is not None]:
                self._skip(layer, beyond, "tree_full")
        for engine_hash, count in copies:
            if count > 0 and engine_hash in layer.index:
                layer.copies.add(engine_hash, count)
        for engine_hash, count in unplaced:
            if count > 0 and engine_hash not in layer.index:
                layer.unplaced.add(engine_hash, count)

    # -- removals --------------------------------------------------------------------

    def _remove(self, event: Remove) -> EventOutcome:
        """Drop one copy of each hash; SKIPPED where one of them is unknown."""
        layer: Layer | None = self.main
        if not (self.main_known and event.group == self.main.group and event.medium == GPU):
            layer = self._known_layer(event.group, event.medium)
        if layer is None:
            self.skipped["unknown_hash"] += 1
            return EventOutcome.SKIPPED
        known = True
        if layer.copies.total:
            for engine_hash in event.hashes:
                known &= self._remove_one(layer, engine_hash)
            return EventOutcome.APPLIED if known else EventOutcome.SKIPPED
        hashes, number = event.hashes, 0
        while number < len(hashes):
            taken = layer.index.take(hashes, number)
            if taken is None:
                known &= self._remove_unseen(layer, hashes[number])
                number += 1
            else:
                self._tree.release(layer.column, *taken)
                number += taken[2]
        return EventOutcome.APPLIED if known else EventOutcome.SKIPPED

    def _remove_one(self, layer: Layer, engine_hash: EngineHash) -> bool:
        if layer.copies.drop(engine_hash):
            return True
        taken = layer.index.take([engine_hash], 0)
        if taken is None:
            return self._remove_unseen(layer, engine_hash)
        self._tree.release(layer.column, *taken)
        return True

    def _remove_unseen(self, layer: Layer, engine_hash: EngineHash) -> bool:
        """Remove a hash that names no block of `layer`: its store may wait, or have been
        skipped."""
        if layer.unplaced.drop(engine_hash) or self._orphans.remove(layer, engine_hash):
            return True
        if layer.medium == SHARED:
            return True  # the pool drops blocks by itself
        if self._missing.drop((layer.column, engine_hash)):
            self.complete = not (self._missing.total or self._missing_overflow)
            return True
        self.skipped["unknown_hash"] += 1
        return False

    def _skip(
        self, layer: Layer, hashes: Sequence[EngineHash], cause: str
    ) -> tuple[EventOutcome, Sequence[EngineHash]]:
        """Blocks that the replica stored cannot be held: they are missing, those in the
        pool apart, which holds what it has room for."""
        self.skipped[cause] += 1
        if layer.medium == SHARED:
            return EventOutcome.SKIPPED, ()
        for engine_hash in hashes:
            self._missing.add((layer.column, engine_hash))
            self.complete = False
        while len(self._missing) > MISSING_BLOCKS:
            self._missing_overflow = True
            self._missing.pop(self._missing.first())
        return EventOutcome.SKIPPED, ()


def _stretches(
    hashes: Sequence[EngineHash | None],
) -> Iterator[tuple[int, list[EngineHash]]]:
    """The hashes that stand in a row, without those that are None: the number of the
    first, and all of them."""
    piece: list[EngineHash] = []
    for number, engine_hash in enumerate((*hashes, None)):
        if engine_hash is not None:
            piece.append(engine_hash)
        elif piece:
            yield number - len(piece), piece
            piece = []
