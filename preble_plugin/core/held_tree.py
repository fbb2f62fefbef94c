"""Who holds which blocks: columns of the prefix tree.

1. Who holds a block is kept per *column*: a replica's cache is one column, and
   each further attention group or medium of it is another.
2. A node keeps a bit mask of the columns that hold all its blocks, and a bitmap
   per column that holds some of them. What is said of a run of blocks therefore
   costs by nodes, not by blocks.
3. Each column's nodes are kept in order of use.
"""

from __future__ import annotations

from collections import OrderedDict

from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.match import first_difference
from preble_plugin.core.node import Node
from preble_plugin.core.tree_shape import TreeShape


class HeldTree(TreeShape):
    """A tree of blocks that columns hold."""

    def __init__(self) -> None:
        super().__init__()
        self._free_columns: list[int] = []
        self._columns = 0
        self.held: dict[int, OrderedDict[Node, None]] = {}
        """By column, the nodes of which it holds a block, least recently used first."""
        self.expected_blocks: dict[int, int] = {}
        """By column, the blocks that it expects and does not hold."""

    # -- columns ---------------------------------------------------------------

    def add_column(self) -> int:
        """A new column, holding nothing. O(1)."""
        if self._free_columns:
            column = self._free_columns.pop()
        else:
            column = self._columns
            self._columns += 1
        self.held[column] = OrderedDict()
        self.expected_blocks[column] = 0
        return column

    def remove_column(self, column: int) -> None:
        """Forget a column. Its expectations must have ended. O(nodes)."""
        self.clear(column)
        for node in self.walk():
            if node.uses:
                node.uses.pop(column, None)
        del self.held[column]
        del self.expected_blocks[column]
        self._free_columns.append(column)

    def clear(self, column: int) -> None:
        """Let a column hold nothing. O(its nodes)."""
        bit = 1 << column
        nodes = list(self.held[column])
        self.held[column].clear()
        for node in nodes:
            node.holders &= ~bit
            bitmap = node.partial.pop(column, 0) if node.partial else 0
            if node.expected & bit:
                self.expected_blocks[column] += bitmap.bit_count()
        for node in nodes:
            self._tidy(node)

    # -- holding ---------------------------------------------------------------

    def hold(self, column: int, node: Node, depth: int, keys: bytes) -> tuple[Node, int]:
        """Let a column hold a run of blocks with these keys, made where they are
        missing, below the first `depth` blocks of the path to `node`, which ends in
        it (the root and 0: at the start).

        Returns the node of the last block, and the bitmap of those that the column
        held before. O(nodes on the way) big-integer operations + O(new blocks).
        """
        bit = 1 << column
        before = position = 0
        end = len(keys)
        offset = depth - node.depth
        while position < end:
            if offset == node.size:
                child = node.children.get(keys[position : position + KEY_BYTES])
                if child is None:
                    rest = keys[position:] if position else keys
                    if node.holders == bit and not (node.children or node.partial or node.expected):
                        # The column is all that has this node: it grows in place.
                        node.edge += rest
                        added = len(rest) // KEY_BYTES
                        node.size += added
                        self.blocks += added
                    else:
                        node = self._new_node(node, rest)
                        node.holders = bit
                        self.held[column][node] = None
                    break
                node, offset = child, 0
            edge = node.edge if not offset else node.edge[offset * KEY_BYTES :]
            if keys.startswith(edge, position):
                matched = len(edge)
            else:
                matched = first_difference(edge, keys[position : position + len(edge)])
            blocks = matched // KEY_BYTES
            if blocks:
                had = self._mark(node, column, offset, blocks)
                if had:
                    before |= had << position // KEY_BYTES
            position += matched
            offset += blocks
            if position < end and offset < node.size:
                node = self.split(node, offset)
        return node, before

    def hold_block(self, column: int, node: Node, depth: int) -> bool:
        """Let a column hold the block at `depth` on the path to `node`; whether it did
        before. O(1) big-integer operations."""
        node = self.at(node, depth)
        return bool(self._mark(node, column, depth - node.depth, 1))

    def _mark(self, node: Node, column: int, offset: int, blocks: int) -> int:
        """Mark blocks of a run as held; the bitmap of those that were, from `offset` on."""
        bit = 1 << column
        asked = (1 << blocks) - 1
        if node.holders & bit:
            return asked
        had = node.partial.get(column, 0) if node.partial else 0
        bitmap = had | asked << offset
        if node.expected & bit:
            self.expected_blocks[column] -= (bitmap ^ had).bit_count()
        if bitmap == (1 << node.size) - 1:
            if node.partial:
                node.partial.pop(column, None)
            node.holders |= bit
            if node.expected & bit:
                self._stop_expecting(node, column)
        else:
            if node.partial is None:
                node.partial = {}
            node.partial[column] = bitmap
        if not had:
            self.held[column][node] = None
        return had >> offset & asked

    def holds(self, column: int, node: Node, depth: int) -> bool:
        """Whether a column holds the block at `depth` on the path to `node`."""
        node = self.at(node, depth)
        if node.holders >> column & 1:
            return True
        bitmap = node.partial.get(column) if node.partial else None
        return bitmap is not None and bool(bitmap >> depth - node.depth & 1)

    def release(self, column: int, node: Node, depth: int, count: int = 1) -> None:
        """Let a column hold no more `count` blocks from `depth` on, the last of them on
        the path to `node`. O(nodes) big-integer operations, plus freeing what nobody
        needs."""
        bit = 1 << column
        end = depth + count
        node = self.at(node, end - 1)
        while True:
            parent = node.parent
            assert parent is not None
            first = max(depth - node.depth, 0)
            asked = (1 << end - node.depth) - (1 << first)
            if node.holders & bit:
                node.holders ^= bit
                bitmap = ((1 << node.size) - 1) & ~asked
            else:
                had = node.partial.get(column, 0) if node.partial else 0
                bitmap = had & ~asked
                if node.expected & bit:
                    self.expected_blocks[column] += (had ^ bitmap).bit_count()
            if bitmap:
                if node.partial is None:
                    node.partial = {}
                node.partial[column] = bitmap
            else:
                if node.partial:
                    node.partial.pop(column, None)
                self.held[column].pop(node, None)
            end = node.depth + first
            if not bitmap:
                self._tidy(node)
            if end <= depth:
                return
            node = self.settle(parent)

    def touch(self, node: Node | None, column: int) -> None:
        """Make the path to `node` the most recently used of a column. O(path)."""
        held = self.held[column]
        bit = 1 << column
        while node is not None:
            if node.holders & bit or (node.partial and column in node.partial):
                held.move_to_end(node)
            node = node.parent

    def _stop_expecting(self, node: Node, column: int) -> None:
        assert node.expecting is not None
        del node.expecting[column]
        node.expected ^= 1 << column
        self.expected_blocks[column] -= node.size - node.holds(column).bit_count()
        if not node.expecting:
            node.expecting = None

    # -- told by the shape ---------------------------------------------------------

    def _was_split(self, upper: Node, lower: Node) -> None:
        upper.holders = lower.holders
        columns = _columns_of(lower.holders)
        if lower.partial:
            columns += lower.partial
            whole = (1 << upper.size) - 1
            for column, bitmap in list(lower.partial.items()):
                upper.set_bitmap(column, bitmap & whole)
                lower.set_bitmap(column, bitmap >> upper.size)
        if lower.expecting:
            upper.expected = lower.expected
            upper.expecting = dict(lower.expecting)
        if lower.uses:
            upper.uses = dict(lower.uses)
        for column in columns:
            held = self.held[column]
            if upper.holds(column):
                held[upper] = None
            if not lower.holds(column):
                del held[lower]
        for half in (upper, lower):
            for column in [one for one in half.expecting or () if half.holders >> one & 1]:
                self._stop_expecting(half, column)

    def _was_merged(self, kept: Node, gone: Node) -> None:
        if gone.uses:
            if kept.uses is None:
                kept.uses = {}
            for column, use in gone.uses.items():
                if column not in kept.uses or kept.uses[column] < use:
                    kept.uses[column] = use
        for column in _columns_of(gone.holders):
            del self.held[column][gone]


def _columns_of(mask: int) -> list[int]:
    columns = []
    while mask:
        lowest = mask & -mask
        columns.append(lowest.bit_length() - 1)
        mask ^= lowest
    return columns
