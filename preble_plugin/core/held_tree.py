"""Who holds which blocks: columns of the prefix tree.

1. Who holds a block is kept per *column*: a replica's cache is one column, and
   each further attention group or medium of it is another.
2. A node keeps a bit mask of the columns that hold all its blocks, and a bitmap
   per column that holds some of them. An operation on a run of blocks therefore
   costs by nodes, not by blocks.
3. A column may hold a block several times, once for each hash that an engine gives
   equal tokens. The holds beyond the first are counted per block (`hold_again`);
   `release` ends one hold, and the block is gone with the last.
4. Each column's nodes are kept in order of use.
"""

from __future__ import annotations

from typing import TypeAlias

from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.match import first_difference
from preble_plugin.core.node import Node
from preble_plugin.core.tree_shape import LONGEST_EDGE, TreeShape
from preble_plugin.core.usage import later_use
from preble_plugin.core.use_order import UseOrder

Held: TypeAlias = tuple[Node, int, int]
"""What `HeldTree.hold` did: the node of the last block that is held; how many are, from
the first on (fewer than asked for where the tree is full); and the bitmap of those that
the column held already."""


class HeldTree(TreeShape):
    """A tree of blocks that columns hold."""

    def __init__(self, max_blocks: int) -> None:
        super().__init__(max_blocks)
        self._free_columns: list[int] = []
        self._columns = 0
        self.held: dict[int, UseOrder] = {}
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
        self.held[column] = UseOrder()
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
            if node.more_holds:
                node.more_holds.pop(column, None)
            if node.expected & bit:
                self.expected_blocks[column] += bitmap.bit_count()
        for node in nodes:
            self._tidy(node)

    # -- holding ---------------------------------------------------------------

    def hold(self, column: int, node: Node, depth: int, keys: bytes) -> Held:
        """Let a column hold a run of blocks with these keys, made where they are
        missing, below the first `depth` blocks of the path to `node`, which ends in
        it (the root and 0: at the start). Where the tree is full, only as many are
        held as it has or has room for.

        O(nodes on the way) operations on bitmaps of up to `LONGEST_EDGE` bits, and
        O(new blocks).
        """
        before = position = 0
        end = len(keys)
        offset = depth - node.depth
        same = False
        while position < end:
            if offset == node.size:
                child = node.children.get(keys[position : position + KEY_BYTES])
                if child is None:
                    rest = keys[position:] if position else keys
                    if self.blocks + len(rest) // KEY_BYTES > self.max_blocks:
                        rest = rest[: self.room * KEY_BYTES]
                    if rest:
                        same = same or bool(node.partial)
                        node = self._append(node, column, rest)
                        position += len(rest)
                    break
                node, offset = child, 0
            edge = node.edge if not offset else node.edge[offset * KEY_BYTES :]
            if keys.startswith(edge, position):
                matched = len(edge)
            else:
                matched = first_difference(edge, keys[position : position + len(edge)])
            blocks = matched // KEY_BYTES
            if blocks:
                same = True
                had = self._mark(node, column, offset, blocks)
                if had:
                    before |= had << position // KEY_BYTES
            position += matched
            offset += blocks
            if position < end and offset < node.size:
                if not self.room:
                    break
                node = self.split(node, offset)
                offset = node.size
        if same:
            # The column holds what others do, or has holes: nodes may be one now.
            self._join_path(node, depth)
        return node, position // KEY_BYTES, before

    def _append(self, node: Node, column: int, keys: bytes) -> Node:
        """Let a column hold new blocks below `node`; returns the node of the last."""
        bit = 1 << column
        added = len(keys) // KEY_BYTES
        if (
            node.holders == bit
            and not (node.children or node.partial or node.expected)
            and node.size + added <= LONGEST_EDGE
        ):
            # Only this column has the node: it grows in place.
            node.edge += keys
            node.size += added
            self.blocks += added
            return node
        leaf = made = self._new_nodes(node, keys)
        while made is not node:
            made.holders = bit
            self.held[column].use(made)
            assert made.parent is not None
            made = made.parent
        return leaf

    def _join_path(self, node: Node, depth: int) -> None:
        """Merge what can be of the path to `node`, up to the block before `depth`: a
        column came to hold it. O(nodes)."""
        node = self._join(node)
        while node.parent is not None and node.depth >= depth:
            node = self._join(node.parent)

    def hold_run(self, column: int, node: Node, depth: int, count: int) -> int:
        """Let a column hold `count` blocks from `depth` on, which are on the path to
        `node`; returns the bitmap of those that it held before. O(nodes)."""
        before = 0
        end = depth + count
        leaf = node = self.at(node, end - 1)
        while end > depth:
            first = max(depth - node.depth, 0)
            had = self._mark(node, column, first, end - node.depth - first)
            before |= had << node.depth + first - depth
            end = node.depth + first
            assert node.parent is not None
            node = node.parent
        self._join_path(leaf, depth)
        return before

    def hold_again(self, column: int, node: Node, depth: int) -> None:
        """Let a column hold the block at `depth` on the path to `node`, which it holds,
        once more. O(1)."""
        node = self.at(node, depth)
        if node.more_holds is None:
            node.more_holds = {}
        counts = node.more_holds.setdefault(column, {})
        counts[depth] = counts.get(depth, 0) + 1

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
            self.held[column].use(node)
        return had >> offset & asked

    def holds(self, column: int, node: Node, depth: int) -> int:
        """How many times a column holds the block at `depth` on the path to `node`."""
        node = self.at(node, depth)
        if not node.holds(column) >> depth - node.depth & 1:
            return 0
        return 1 + (node.more_holds or {}).get(column, {}).get(depth, 0)

    def release(self, column: int, node: Node, depth: int, count: int = 1) -> None:
        """End one hold of a column on each of `count` blocks from `depth` on, the last
        of them on the path to `node`. O(nodes) big-integer operations, plus the blocks
        where some are held more than once, plus freeing what nobody needs."""
        bit = 1 << column
        end = depth + count
        node = self.at(node, end - 1)
        while True:
            parent = node.parent
            assert parent is not None
            first = max(depth - node.depth, 0)
            asked = (1 << end - node.depth) - (1 << first)
            if node.more_holds and column in node.more_holds:
                asked = self._release_again(node, column, first, end)
            whole = node.holders & bit
            if whole:
                bitmap = ((1 << node.size) - 1) & ~asked
                if asked:
                    node.holders ^= bit
            else:
                had = node.partial.get(column, 0) if node.partial else 0
                bitmap = had & ~asked
                if node.expected & bit:
                    self.expected_blocks[column] += (had ^ bitmap).bit_count()
            if asked:
                if bitmap:
                    if node.partial is None:
                        node.partial = {}
                    node.partial[column] = bitmap
                else:
                    if node.partial:
                        node.partial.pop(column, None)
                    self.held[column].discard(node)
            end = node.depth + first
            if whole or 2 * bitmap.bit_length() <= node.size:
                self._tidy(node)
            if end <= depth:
                return
            node = self.settle(parent)

    def _release_again(self, node: Node, column: int, first: int, end: int) -> int:
        """End the further holds on blocks of a node from number `first` on up to depth
        `end`; the bitmap of those that had none."""
        assert node.more_holds is not None
        counts = node.more_holds[column]
        asked = 0
        for depth in range(node.depth + first, end):
            more = counts.get(depth)
            if more is None:
                asked |= 1 << depth - node.depth
            elif more > 1:
                counts[depth] = more - 1
            else:
                del counts[depth]
        if not counts:
            del node.more_holds[column]
        return asked

    def touch(self, node: Node | None, column: int) -> None:
        """Make the path to `node` the most recently used of a column. O(path)."""
        node = None if node is None else self.settle(node)
        held = self.held[column]
        bit = 1 << column
        while node is not None:
            if node.holders & bit or (node.partial and column in node.partial):
                held.use(node)
            node = node.parent

    def _stop_expecting(self, node: Node, column: int) -> None:
        assert node.expecting is not None
        del node.expecting[column]
        node.expected ^= 1 << column
        self.expected_blocks[column] -= node.size - node.holds(column).bit_count()
        if not node.expecting:
            node.expecting = None

    # -- splits and merges -----------------------------------------------------------

    def _was_split(self, upper: Node, lower: Node) -> None:
        upper.holders = lower.holders
        columns = _columns_of(lower.holders)
        if lower.partial:
            columns += lower.partial
            whole = (1 << upper.size) - 1
            for column, bitmap in list(lower.partial.items()):
                upper.set_bitmap(column, bitmap & whole, upper.size)
                lower.set_bitmap(column, bitmap >> upper.size, lower.size)
        if lower.expecting:
            upper.expected = lower.expected
            upper.expecting = dict(lower.expecting)
        if lower.uses:
            upper.uses = dict(lower.uses)
        if lower.more_holds:
            both, lower.more_holds = lower.more_holds, None
            for half in (upper, lower):
                blocks = range(half.depth, half.depth + half.size)
                for column, counts in both.items():
                    if own := {depth: count for depth, count in counts.items() if depth in blocks}:
                        half.more_holds = (half.more_holds or {}) | {column: own}
        for column in columns:
            held = self.held[column]
            if not lower.holds(column):
                held.replace(lower, upper)
            elif upper.holds(column):
                # LRU evicts a prompt from its end.
                held.add_after(lower, upper)
        for half in (upper, lower):
            for column in [one for one in half.expecting or () if half.holders >> one & 1]:
                self._stop_expecting(half, column)

    def _trim(self, node: Node) -> None:
        """Free what nobody holds at the end of a node that nobody expects, once it is
        half of it. O(columns that hold some of it), and amortised O(1) for each block."""
        if node.children or node.holders or node.expected or not node.partial:
            return
        held = 0
        for bitmap in node.partial.values():
            held |= bitmap
        size = held.bit_length()
        if 2 * size <= node.size:
            self.blocks -= node.size - size
            node.edge = node.edge[: size * KEY_BYTES]
            node.size = size
            for column, bitmap in list(node.partial.items()):
                node.set_bitmap(column, bitmap, size)

    def _can_merge(self, node: Node, child: Node) -> bool:
        if node.expected or child.expected:
            return False
        different = node.holders ^ child.holders
        if not different:
            return True
        # Where a column has a hole in either, they are two by chance.
        for half in (node, child):
            for column in half.partial or ():
                different &= ~(1 << column)
        return not different

    def _will_merge(self, gone: Node, kept: Node) -> None:
        for column in _columns_of(gone.holders):
            # What used the lower of the two used the upper one after it.
            self.held[column].replace(gone, kept)
        partial = {*(gone.partial or ()), *(kept.partial or ())}
        if partial:
            size = gone.size + kept.size
            bitmaps = {one: gone.holds(one) | kept.holds(one) << gone.size for one in partial}
            for column in gone.partial or ():
                self.held[column].replace(gone, kept)
            kept.holders |= gone.holders
            for column, bitmap in bitmaps.items():
                kept.set_bitmap(column, bitmap, size)
        if gone.uses:
            if kept.uses is None:
                kept.uses = {}
            for column, use in gone.uses.items():
                kept.uses[column] = later_use(use, kept.uses.get(column, use))
        if gone.more_holds:
            kept.more_holds = kept.more_holds or {}
            for column, counts in gone.more_holds.items():
                kept.more_holds.setdefault(column, {}).update(counts)


def _columns_of(mask: int) -> list[int]:
    columns = []
    while mask:
        lowest = mask & -mask
        columns.append(lowest.bit_length() - 1)
        mask ^= lowest
    return columns
