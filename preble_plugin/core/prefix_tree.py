"""The prefix tree: which blocks follow which, and who holds them.

1. A compressed radix tree over block keys (`tree_shape`). A node's edge is a run
   of keys, packed in bytes and compared whole.
2. Who holds a block is kept in bit masks (`held_tree`): a walk costs by nodes, not
   by blocks or replicas.
3. A column may also *expect* a node: requests were dispatched that will store it.
   A node keeps their count, and the number of the first of them.
4. A node that nobody holds, expects or needs as a parent is freed.

The paper's section 3.2 describes the tree; residency by column is ours.
"""

from __future__ import annotations

import sys
from typing import Final, TypeAlias

from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.held_tree import HeldTree
from preble_plugin.core.match import Match
from preble_plugin.core.node import Node
from preble_plugin.core.walk import (
    FASTEST_COLUMNS,
    fastest_expect,
    fastest_walk,
    plain_expect,
    plain_walk,
)

Expectation: TypeAlias = tuple[Node, int, int]
"""What a request will store: the last node of its prompt, the depth in blocks of the
first node that it will store, and a number that grows from one to the next."""

_FASTEST: Final = 1 << FASTEST_COLUMNS
_WAITING_BITS: Final = 24
_WAITING: Final = (1 << _WAITING_BITS) - 1


class PrefixTree(HeldTree):
    """All prompts' blocks, and who holds or expects them: at most `max_blocks`. Not
    thread-safe."""

    def __init__(self, max_blocks: int = sys.maxsize) -> None:
        super().__init__(max_blocks)
        self._number = 0

    # -- walking ---------------------------------------------------------------

    def match(self, keys: bytes, columns: int) -> Match:
        """Walk a prompt's keys down the tree.

        `columns` is the mask of the columns to follow; what each holds or
        expects from the start on, up to its first hole, is in the result.
        O(nodes on the path + columns that hold part of it).
        """
        walk = fastest_walk if columns < _FASTEST else plain_walk
        path, blocks, in_last, alive, drops = walk(self.root, keys, columns)
        levels: list[tuple[int, int]] = []
        for dropped, node, depth, matched in drops:
            self._part(node, dropped, depth, matched, levels)
        if alive and blocks:
            levels.append((alive, blocks))
        layered = len(self.held) > columns.bit_count()
        return Match(path, blocks, in_last, levels, layered)

    def _part(
        self, node: Node, columns: int, depth: int, blocks: int, levels: list[tuple[int, int]]
    ) -> None:
        """These columns end in `node`: with what they hold at its start, or before it."""
        if node.partial:
            for column, bitmap in node.partial.items():
                if columns >> column & 1:
                    start = (~bitmap & (bitmap + 1)).bit_length() - 1
                    columns ^= 1 << column
                    if found := depth + min(start, blocks):
                        levels.append((1 << column, found))
        if columns and depth:
            levels.append((columns, depth))

    def grow(self, keys: bytes, match: Match) -> Node:
        """Make the path of `match` end exactly at the last of `keys`, or at the last that
        was matched where the tree is full. The path in `match` is brought up to date;
        returns its last node (the root for none). O(new blocks + length of a split
        node)."""
        path = match.path
        if match.in_last:
            path[-1] = self.split(path[-1], match.in_last)
            match.in_last = 0
            if len(path) > 1 and path[-2].forward is not None:
                del path[-2]
        node = path[-1] if path else self.root
        known, blocks = match.blocks, len(keys) // KEY_BYTES
        if known < blocks <= self.max_blocks - self.blocks + known:
            leaf = self._new_nodes(node, keys[known * KEY_BYTES :])
            start = len(path)
            path.append(leaf)
            while (above := path[start].parent) is not node:
                assert above is not None
                path.insert(start, above)
            node = leaf
            match.blocks = blocks
        return node

    # -- expecting -------------------------------------------------------------

    def expect(self, path: list[Node], column: int, first_use: int) -> Expectation:
        """A request goes to a column: it uses `path` (a node or more), will store what of
        it is missing there, and makes the rest the most recently used. `first_use` is
        what the first use of a node is counted as. O(path)."""
        self._number += 1
        begun = self._number << _WAITING_BITS | 1
        expect = fastest_expect if column < FASTEST_COLUMNS else plain_expect
        depth, blocks = expect(path, column, first_use, begun, self.held[column].use)
        self.expected_blocks[column] += blocks
        leaf = path[-1]
        return leaf, depth if depth >= 0 else leaf.depth + leaf.size, self._number

    def unexpect(self, expectation: Expectation, column: int) -> None:
        """End what a request expects, and merge what stands alike there. Once for each.
        O(nodes it expected)."""
        bit = 1 << column
        leaf, depth, number = expectation
        node = self.settle(leaf)
        path: list[Node] = []
        while node.parent is not None and node.depth + node.size > depth:
            if node.expected & bit:
                assert node.expecting is not None
                waiting = node.expecting[column]
                # What was stored, and so expected no more, may since have been evicted
                # and be expected by later requests.
                if waiting >> _WAITING_BITS <= number:
                    if waiting & _WAITING > 1:
                        node.expecting[column] = waiting - 1
                    else:
                        self._stop_expecting(node, column)
            path.append(node)
            node = node.parent
        path.append(node)
        for one in path:
            self._tidy(one)
