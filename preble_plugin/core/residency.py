"""What one replica's cache holds, from the events it publishes.

1. A store names its blocks by engine hashes, opaque to us, and says after which
   block they come. The hash leads to a block of the prefix tree (`names`); the
   tokens give the keys that prompts find the block by.
2. A hash may be held more than once: engines announce each physical copy, and
   each attention group and medium on its own. Copies are counted per hash in
   each *layer* (group and medium); a block is gone at zero.
3. An engine may hash what its events leave out (a LoRA's path), so that a block
   has two hashes. The second is held in a layer beside the first (`turn`).
4. Positions come from full attention. Other groups may name fewer blocks than
   they list tokens for: those are found by hash.
5. A store whose parent is unknown is kept aside until the parent comes.

Cost per block: one dict operation, and one bitmap operation per run of blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from preble_plugin.core.asides import ASIDE_STORES, Asides
from preble_plugin.core.block_keys import KEY_BYTES, BlockHasher, TokenIdError
from preble_plugin.core.events import Attention, CacheEvent, EngineHash, Remove, Store
from preble_plugin.core.layer import GPU, Layer
from preble_plugin.core.names import Run
from preble_plugin.core.node import Node
from preble_plugin.core.prefix_tree import PrefixTree

MOST_TURNS: Final = 4
"""Hashes that one block of a layer may have."""


class Residency:
    """One replica's cache in the prefix tree. `column` is that of full attention
    on the GPU, which placements also expect blocks in."""

    def __init__(self, tree: PrefixTree, hasher: BlockHasher, max_tree_blocks: int) -> None:
        self._tree = tree
        self.hasher = hasher
        self._max_tree_blocks = max_tree_blocks
        self.column = tree.add_column()
        self.columns = 1 << self.column
        """Mask of the columns of all layers."""
        self.main = Layer(self.column, 0, Attention.FULL, 0, GPU)
        self._main_known = False
        self.layers: dict[tuple[int, str, int], Layer] = {}
        """Layers other than the main one, by group, medium and turn."""
        self._asides = Asides()
        self.copies = 0
        """Blocks of full attention held on the GPU, copies counted."""
        self.skipped: Counter[str] = Counter()
        """Events that were not applied, by cause."""

    @property
    def names(self) -> int:
        """Hashes known, in all layers. O(layers)."""
        return len(self.main.names) + sum(len(layer.names) for layer in self.layers.values())

    # -- events ------------------------------------------------------------------

    def apply(self, event: CacheEvent) -> bool:
        """Apply one event; False where it was skipped, counted in `skipped`."""
        if isinstance(event, Store):
            applied = self._store(event)
            if self._asides and applied:
                self._store_waiting(event)
            return applied
        if isinstance(event, Remove):
            return self._remove(event)
        self.clear()
        return True

    def clear(self) -> None:
        """The cache is empty. O(what it held)."""
        for layer in (self.main, *self.layers.values()):
            self._tree.clear(layer.column)
            layer.clear()
        self._asides.clear()
        self.copies = 0

    def close(self) -> None:
        """Forget everything and give the columns back."""
        self.clear()
        for layer in (self.main, *self.layers.values()):
            self._tree.remove_column(layer.column)
        self.layers.clear()

    def hold(
        self,
        layer: Layer,
        hashes: Sequence[EngineHash],
        after: Run | None,
        depth: int,
        keys: bytes,
    ) -> None:
        """Hold in `layer` the run of blocks with these keys from `depth` on, below a
        block of the run `after` (None: at the start). `hashes` and `keys` name the same
        blocks. O(blocks)."""
        tree = self._tree
        above = tree.root if after is None else tree.at(after.node, depth - 1)
        node, before = tree.hold(layer.column, above, depth, keys)
        names = layer.names
        if (
            before
            or (self.layers and self._has_turns(layer))
            or not names.add(hashes, node, depth, after)
        ):
            self._hold_each(layer, hashes, node, depth, before)
        if layer is self.main or (layer.group == self.main.group and layer.medium == GPU):
            self.copies += len(hashes)
        if self.layers:
            for other in self.layers.values():
                if other.unplaced:
                    self._place(other, hashes)

    def _hold_each(
        self, layer: Layer, hashes: Sequence[EngineHash], leaf: Node, depth: int, before: int
    ) -> None:
        """Name blocks some of which are known by name, or held under another."""
        tree = self._tree
        run: Run | None = None
        for number, name in enumerate(hashes):
            place = depth + number
            was_held = before >> number & 1
            holder, known = self._known(layer, name)
            if known is not None:
                if not (
                    known.depth_of(name) == place
                    and tree.at(known.node, place) is tree.at(leaf, place)
                ):
                    # The engine calls it the same: a copy of what it named so first.
                    self.skipped["hash_moved"] += 1
                    if not was_held:
                        tree.release(layer.column, leaf, place)
                holder.more_copies[name] += 1
            elif was_held:
                self._hold_again(layer, name, leaf, place)
            else:
                layer.names.add([name], tree.at(leaf, place), place, run)
                run = layer.names.find(name)

    def _hold_again(self, layer: Layer, name: EngineHash, leaf: Node, depth: int) -> None:
        """Hold a block that `layer` holds under another name."""
        for turn in range(1, MOST_TURNS):
            other = self.layer(
                layer.group, layer.medium, layer.attention, layer.window_blocks, turn
            )
            if not self._tree.hold_block(other.column, leaf, depth):
                other.names.add([name], self._tree.at(leaf, depth), depth)
                return
        self._skip("too_many_hashes")
        if layer.group == self.main.group and layer.medium == GPU:
            self.copies -= 1

    def _turns(self, layer: Layer) -> Iterator[Layer]:
        """`layer` and those beside it. O(1)."""
        yield layer
        for turn in range(1, MOST_TURNS):
            other = self.layers.get((layer.group, layer.medium, turn))
            if other is None:
                return
            yield other

    def _has_turns(self, layer: Layer) -> bool:
        return (layer.group, layer.medium, 1) in self.layers

    def _known(self, layer: Layer, name: EngineHash) -> tuple[Layer, Run | None]:
        """The layer beside `layer`, or itself, that knows a hash, and its run."""
        for other in self._turns(layer):
            run = other.names.find(name)
            if run is not None:
                return other, run
        return layer, None

    def _find(self, layer: Layer, name: EngineHash) -> Run | None:
        """The run of a hash that any layer knows, `layer` first."""
        run = layer.names.find(name)
        if run is None and self.layers:
            for other in (self.main, *self.layers.values()):
                run = other.names.find(name)
                if run is not None:
                    break
        return run

    # -- stores --------------------------------------------------------------------

    def _store_waiting(self, event: Store) -> None:
        """Apply the stores that waited for one of this event's blocks."""
        ready = [event]
        while ready:
            for engine_hash in ready.pop().hashes:
                for aside in self._asides.take(engine_hash):
                    if self._store(aside.store):
                        ready.append(aside.store)
                        for removed in aside.removed:
                            self._remove_one(aside.layer, removed)

    def _store(self, event: Store) -> bool:
        layer = self._layer_of(event)
        own_size = event.block_size == self.hasher.block_size
        if event.attention is not Attention.FULL or not event.tokens or not own_size:
            if layer is self.main:
                return self._skip("block_size" if event.tokens else "no_tokens")
            for engine_hash in event.hashes:
                layer.unplaced[engine_hash] += 1
            self._place(layer, event.hashes)
            return True
        hashes, parent = event.hashes, event.parent
        if len(event.tokens) != event.block_size * len(hashes):
            return self._skip("wrong_length")
        after: Run | None = None
        depth = 0
        if parent is not None:
            after = layer.names.find(parent) or self._find(layer, parent)
            if after is None:
                if not self._asides.add(parent, event, layer):
                    self._skip("unknown_parent")
                return True
            depth = after.depth_of(parent) + 1
        if self._tree.blocks + len(hashes) > self._max_tree_blocks:
            return self._skip("tree_full")
        try:
            keys = self.hasher.stored_keys(
                event.tokens, parent is None, event.namespace, event.features
            )
        except TokenIdError:
            return self._skip("token_id")
        self.hold(layer, hashes, after, depth, keys)
        return True

    def _layer_of(self, event: Store) -> Layer:
        if event.medium == GPU:
            if not self._main_known and event.attention is Attention.FULL:
                self.set_main(event.group)
            if self._main_known and event.group == self.main.group:
                return self.main
        window = -(-((event.window_tokens or 2) - 1) // self.hasher.block_size)
        window = 0 if event.attention is Attention.FULL else max(window, 1)
        return self.layer(event.group, event.medium, event.attention, window)

    def layer(
        self, group: int, medium: str, attention: Attention, window_blocks: int, turn: int = 0
    ) -> Layer:
        """The layer of a group in a medium, made where it is missing. O(1)."""
        found = self.layers.get((group, medium, turn))
        if found is None:
            column = self._tree.add_column()
            found = Layer(column, group, attention, window_blocks, medium, turn)
            self.layers[group, medium, turn] = found
            self.columns |= 1 << column
        return found

    def restore_layer(
        self,
        layer: Layer,
        runs: Iterable[tuple[bytes, int, Sequence[EngineHash | None]]],
        more_copies: Iterable[tuple[EngineHash, int]],
    ) -> None:
        """Let `layer`, which is empty, hold what a snapshot says: runs as the keys of a
        path, the depth at which the names begin, and these up to its end. A hash that
        comes twice counts once. O(blocks + lengths of the paths)."""
        tree, known = self._tree, layer.names
        for keys, depth, names in runs:
            leaf, before = tree.hold(layer.column, tree.root, 0, keys)
            end = len(keys) // KEY_BYTES
            seen: set[EngineHash] = set()
            named = 0
            for place, name in enumerate(names, depth):
                if name is not None and name not in known and name not in seen:
                    seen.add(name)
                    named |= 1 << place
            named &= ~before
            for first, count in _stretches(named):
                piece = names[first - depth : first - depth + count]
                last = tree.at(leaf, first + count - 1)
                known.add([name for name in piece if name is not None], last, first)
            for first, count in _stretches(((1 << end) - 1) & ~(before | named)):
                tree.release(layer.column, leaf, first, count)
        for name, count in more_copies:
            if count > 0 and name in known:
                layer.more_copies[name] += count
        if layer.group == self.main.group and layer.medium == GPU:
            self.copies += len(known) + layer.more_copies.total()

    def set_main(self, group: int) -> Layer:
        """The main layer, which is that of this group. O(1)."""
        self.main.group, self._main_known = group, True
        return self.main

    def _place(self, layer: Layer, hashes: Sequence[EngineHash]) -> None:
        """Mark in `layer` those of its unplaced hashes whose block is now known."""
        for name in hashes:
            if name not in layer.unplaced:
                continue
            holder, run = self._known(layer, name)
            run = run or self._find(layer, name)
            if run is None:
                continue
            copies = layer.unplaced.pop(name)
            if name not in holder.names:
                depth = run.depth_of(name)
                if self._tree.hold_block(layer.column, run.node, depth):
                    self._hold_again(layer, name, run.node, depth)
                else:
                    layer.names.add([name], self._tree.at(run.node, depth), depth)
                copies -= 1
            if copies:
                holder.more_copies[name] += copies
        while len(layer.unplaced) > ASIDE_STORES:
            del layer.unplaced[next(iter(layer.unplaced))]
            self._skip("unplaced_full")

    # -- removals --------------------------------------------------------------------

    def _remove(self, event: Remove) -> bool:
        name = (event.group, event.medium)
        layer = self.main if name == (self.main.group, GPU) else self.layers.get((*name, 0))
        if layer is None:
            return self._skip("unknown_hash")
        hashes = event.hashes
        known, number, count = True, 0, len(hashes)
        if layer.more_copies or self.layers:
            for one in hashes:
                known &= self._remove_one(layer, one)
            return known
        names, tree = layer.names, self._tree
        while number < count:
            run = names.find(hashes[number])
            if run is None:
                known &= self._remove_unknown(layer, hashes[number])
                number += 1
                continue
            depth, gone = names.take(run, hashes, number)
            tree.release(layer.column, run.node, depth, gone)
            number += gone
            if layer is self.main:
                self.copies -= gone
        return known

    def _remove_one(self, layer: Layer, name: EngineHash) -> bool:
        holder, run = self._known(layer, name)
        if run is None:
            return self._remove_unknown(layer, name)
        if layer.group == self.main.group and layer.medium == GPU:
            self.copies -= 1
        if holder.more_copies.get(name):
            _drop_one(holder.more_copies, name)
            return True
        depth, _ = holder.names.take(run, [name], 0)
        self._tree.release(holder.column, run.node, depth)
        return True

    def _remove_unknown(self, layer: Layer, name: EngineHash) -> bool:
        """A hash that names no block of `layer`: it may wait for its place."""
        if layer.unplaced.get(name):
            _drop_one(layer.unplaced, name)
            return True
        return self._asides.remove(layer, name) or self._skip("unknown_hash")

    def _skip(self, cause: str) -> bool:
        self.skipped[cause] += 1
        return False


def _stretches(bitmap: int) -> Iterator[tuple[int, int]]:
    """Where the bits of a bitmap are set in a row: the first, and how many."""
    while bitmap:
        first = (bitmap & -bitmap).bit_length() - 1
        rest = bitmap >> first
        count = (~rest & (rest + 1)).bit_length() - 1
        yield first, count
        bitmap = rest >> count << first + count


def _drop_one(counts: Counter[EngineHash], name: EngineHash) -> None:
    counts[name] -= 1
    if not counts[name]:
        del counts[name]
