"""What a pool that all replicas read holds: one layer for all of them.

1. Any replica may store into it and remove from it. A block that several announce is
   held once, and a replica that clears its cache, or leaves, leaves it.
2. Pools announce few removals or none, so the layers are bounded by themselves: past
   `max_blocks` an eighth goes, the least recently used first. The tree gets that much
   more room with the first layer, so the pool takes none from the caches of replicas.
3. A block is used when it is stored, and when a request whose prompt has it ends.
"""

from __future__ import annotations

from typing import Final

from preble_plugin.core.events import Attention, EngineHash
from preble_plugin.core.layer import SHARED, Layer
from preble_plugin.core.node import Node
from preble_plugin.core.prefix_tree import PrefixTree

_DROPPED_SHARE: Final = 8


class Pool:
    """The layers of the pool, one for each attention group, in columns of `tree`."""

    def __init__(self, tree: PrefixTree, max_blocks: int) -> None:
        self._tree = tree
        self.max_blocks = max_blocks
        """Blocks that each layer may hold."""
        self.layers: dict[tuple[int, str], Layer] = {}
        """By group and medium, as those of a replica."""
        self.columns = 0
        """Mask of their columns."""

    def layer(self, group: int, attention: Attention, window_blocks: int) -> Layer:
        """A new layer, of a group that has none. O(1)."""
        column = self._tree.add_column()
        self._tree.max_blocks += self.max_blocks
        made = Layer(column, group, attention, window_blocks, SHARED)
        self.layers[group, SHARED] = made
        self.columns |= 1 << column
        return made

    def make_room(self, layer: Layer, blocks: int) -> None:
        """So many blocks are to be stored in `layer`: drop what is over its bound then, or
        has no room in the tree. Amortised O(1) for each block that was ever stored."""
        over = len(layer.index) + blocks - self.max_blocks
        over = max(over, blocks - self._tree.room)
        if over > 0:
            self._drop(layer, over + self.max_blocks // _DROPPED_SHARE)

    def touch(self, leaf: Node) -> None:
        """The path to `leaf` is used. O(path x groups)."""
        for layer in self.layers.values():
            self._tree.touch(leaf, layer.column)

    def close(self) -> None:
        """Forget all, and give the columns back. O(nodes of the tree)."""
        for layer in self.layers.values():
            self._tree.remove_column(layer.column)
            self._tree.max_blocks -= self.max_blocks
        self.layers.clear()
        self.columns = 0

    def _drop(self, layer: Layer, left: int) -> None:
        """Drop the least recently used nodes, until so many blocks are dropped. O(blocks
        of the layer)."""
        tree, column = self._tree, layer.column
        old: set[Node] = set()
        for node in tree.held[column]:
            old.add(node)
            left -= node.holds(column).bit_count()
            if left <= 0:
                break
        gone: list[list[EngineHash]] = []
        for run in layer.index.runs():
            end = len(run.hashes)
            node = tree.at(run.node, run.depth + end - 1)
            while end > 0:
                first = max(node.depth - run.depth, 0)
                if node in old:
                    gone.append([one for one in run.hashes[first:end] if one is not None])
                end = first
                assert node.parent is not None
                node = node.parent
        for row in gone:
            number = 0
            while number < len(row):
                taken = layer.index.take(row, number)
                assert taken is not None
                tree.release(column, *taken)
                number += taken[2]
