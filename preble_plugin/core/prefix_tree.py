"""The prefix tree: which blocks follow which, and who holds them.

1. A compressed radix tree over block keys (`tree_shape`). A node's edge is a run
   of keys, packed in bytes and compared whole.
2. Who holds a block is kept per *column*: a replica's cache is one column, and
   each further attention group or medium of it is another. A node keeps a bit
   mask of the columns that hold all its blocks, and a bitmap per column that
   holds some of them. A walk therefore costs by nodes, not by blocks or
   replicas.
3. A column may also *expect* a node: a request was dispatched that will store
   it. Expectations count per request and end by name.
4. A node that nobody holds, expects or needs as a parent is freed.

The paper's section 3.2 describes the tree; residency by column is ours.
"""

from __future__ import annotations

from collections import OrderedDict

from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.match import Match, first_difference
from preble_plugin.core.node import Node
from preble_plugin.core.tree_shape import TreeShape


class PrefixTree(TreeShape):
    """All prompts' blocks, and who holds them. Not thread-safe."""

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
            bitmap = node.partial.pop(column, 0)
            if node.expected & bit:
                self.expected_blocks[column] += bitmap.bit_count()
        for node in nodes:
            self._tidy(node)

    # -- walking ---------------------------------------------------------------

    def match(self, keys: bytes, columns: int) -> Match:
        """Walk a prompt's keys down the tree.

        `columns` is the mask of the columns to follow; what each holds or
        expects from the start on, up to its first hole, is in the result.
        O(nodes on the path + columns that hold part of it).
        """
        node = self.root
        position = 0
        end = len(keys)
        path: list[Node] = []
        levels: list[tuple[int, int]] = []
        alive = columns
        in_last = 0
        while position < end:
            child = node.children.get(keys[position : position + KEY_BYTES])
            if child is None:
                break
            edge = child.edge
            if keys.startswith(edge, position):
                matched = len(edge)
            else:
                matched = first_difference(edge, keys[position : position + len(edge)])
            blocks = matched // KEY_BYTES
            dropped = alive & ~(child.holders | child.expected)
            if dropped:
                alive &= ~dropped
                if child.partial:
                    for column, bitmap in child.partial.items():
                        if dropped >> column & 1:
                            start = (~bitmap & (bitmap + 1)).bit_length() - 1
                            found = position // KEY_BYTES + min(start, blocks)
                            dropped &= ~(1 << column)
                            if found:
                                levels.append((1 << column, found))
                if dropped and position:
                    levels.append((dropped, position // KEY_BYTES))
            path.append(child)
            position += matched
            node = child
            if matched < len(edge):
                in_last = blocks
                break
        if alive and position:
            levels.append((alive, position // KEY_BYTES))
        layered = len(self.held) > columns.bit_count()
        return Match(path, position // KEY_BYTES, in_last, levels, layered)

    def grow(self, keys: bytes, match: Match) -> Node:
        """Make the path of `match` end exactly at the last of `keys`, and return
        its last node (the root for no keys). The path in `match` is brought up
        to date. O(new blocks + length of a split node)."""
        path = match.path
        if match.in_last:
            upper = self.split(path[-1], match.in_last)
            path[-1] = upper
            match.in_last = 0
        node = path[-1] if path else self.root
        rest = keys[match.blocks * KEY_BYTES :]
        if rest:
            node = self._new_node(node, rest)
            path.append(node)
            match.blocks = len(keys) // KEY_BYTES
        return node

    # -- holding ---------------------------------------------------------------

    def hold(self, column: int, ids: list[int]) -> set[int]:
        """Mark blocks as held by a column; returns those that it held before.
        `ids` run down one path, in order. O(nodes) big-integer operations, plus
        O(blocks held before)."""
        before: set[int] = set()
        bit = 1 << column
        held = self.held[column]
        position, count = 0, len(ids)
        node_of, depth_of = self.node_of, self.depth_of
        while position < count:
            node = node_of[ids[position]]
            offset = depth_of[ids[position]] - node.depth
            run = min(len(node.ids) - offset, count - position)
            asked = ((1 << run) - 1) << offset
            had = asked if node.holders & bit else node.partial.get(column, 0)
            if node.expected & bit:
                self.expected_blocks[column] -= (asked & ~had).bit_count()
            if had & asked:
                before.update(
                    block
                    for place, block in enumerate(node.ids[offset : offset + run], offset)
                    if had >> place & 1
                )
            if not node.holders & bit:
                bitmap = had | asked
                if bitmap == (1 << len(node.ids)) - 1:
                    node.partial.pop(column, None)
                    node.holders |= bit
                    self._stop_expecting(node, column)
                else:
                    node.partial[column] = bitmap
                if node not in held:
                    held[node] = None
            position += run
        return before

    def holds(self, column: int, block: int) -> bool:
        """Whether a column holds a block. O(1)."""
        node = self.node_of[block]
        if node.holders >> column & 1:
            return True
        bitmap = node.partial.get(column)
        return bitmap is not None and bool(bitmap >> self.depth_of[block] - node.depth & 1)

    def release(self, column: int, block: int) -> None:
        """Mark one block as no longer held by a column. O(1) big-integer
        operations, plus freeing what nobody needs."""
        bit = 1 << column
        node = self.node_of[block]
        offset = self.depth_of[block] - node.depth
        if node.holders & bit:
            node.holders &= ~bit
            bitmap = (1 << len(node.ids)) - 1 ^ 1 << offset
        else:
            had = node.partial.get(column, 0)
            bitmap = had & ~(1 << offset)
            if node.expected & bit and bitmap != had:
                self.expected_blocks[column] += 1
        if bitmap:
            node.partial[column] = bitmap
            return
        node.partial.pop(column, None)
        self.held[column].pop(node, None)
        self._tidy(node)

    def touch(self, node: Node | None, column: int) -> None:
        """Make the path to `node` the most recently used of a column. O(path)."""
        held = self.held[column]
        while node is not None and node is not self.root:
            if node in held:
                held.move_to_end(node)
            node = node.parent

    # -- expecting -------------------------------------------------------------

    def expect(self, path: list[Node], column: int, request_id: str) -> None:
        """A request will store what of `path` the column lacks. O(path)."""
        bit = 1 << column
        for node in path:
            if not node.holders & bit:
                waiting = node.expecting.get(column)
                if waiting is None:
                    node.expecting[column] = {request_id}
                    node.expected |= bit
                    self.expected_blocks[column] += len(node.ids) - node.holds(column).bit_count()
                else:
                    waiting.add(request_id)

    def unexpect(self, leaf: Node, column: int, request_id: str) -> None:
        """End a request's expectations on the path to `leaf`, and merge what stands
        alike there. O(path)."""
        node: Node | None = self.settle(leaf)
        path: list[Node] = []
        while node is not None:
            waiting = node.expecting.get(column)
            if waiting is not None and request_id in waiting:
                waiting.discard(request_id)
                if not waiting:
                    self._stop_expecting(node, column)
            path.append(node)
            node = node.parent
        for node in path:
            if node.forward is None:
                self._tidy(node)

    def _stop_expecting(self, node: Node, column: int) -> None:
        if node.expecting.pop(column, None) is not None:
            node.expected &= ~(1 << column)
            self.expected_blocks[column] -= len(node.ids) - node.holds(column).bit_count()

    # -- told by the shape ---------------------------------------------------------

    def _was_split(self, upper: Node, lower: Node) -> None:
        upper.holders = lower.holders
        at = len(upper.ids)
        whole, rest = (1 << at) - 1, (1 << len(lower.ids)) - 1
        for column, bitmap in list(lower.partial.items()):
            _set_bitmap(upper, column, bitmap & whole, whole)
            _set_bitmap(lower, column, bitmap >> at, rest)
        upper.expected = lower.expected
        upper.expecting = {column: set(ids) for column, ids in lower.expecting.items()}
        upper.uses = {column: list(use) for column, use in lower.uses.items()}
        for column, held in self.held.items():
            if lower in held:
                if upper.holds(column):
                    held[upper] = None
                if not lower.holds(column):
                    del held[lower]
        for half in (upper, lower):
            for column in [one for one in half.expecting if half.holders >> one & 1]:
                self._stop_expecting(half, column)

    def _was_merged(self, kept: Node, gone: Node) -> None:
        for column, use in gone.uses.items():
            if column not in kept.uses or kept.uses[column] < use:
                kept.uses[column] = use
        for held in self.held.values():
            held.pop(gone, None)


def _set_bitmap(node: Node, column: int, bitmap: int, whole: int) -> None:
    node.partial.pop(column, None)
    if bitmap == whole:
        node.holders |= 1 << column
    elif bitmap:
        node.partial[column] = bitmap
