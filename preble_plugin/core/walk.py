"""The two loops over a prompt's nodes that each placement makes: down, and back up.

1. Down the tree: which nodes the prompt's keys take, and where columns drop out.
2. Back up, once a column is chosen: its use of each node is counted, what it holds
   becomes the most recently used, and what it lacks is expected.

In Python; where the package was built with a compiler, `_speed` does both in a
quarter of the time. It reads masks of 64 columns; beyond, Python goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.match import first_difference
from preble_plugin.core.node import Node
from preble_plugin.core.usage import count_use

Drop: TypeAlias = tuple[int, Node, int, int]
"""Columns that hold or expect no more, the node of the path where they end, the blocks
before it, and those of it that match."""
Walked: TypeAlias = tuple[list[Node], int, int, int, list[Drop]]
"""Path, blocks matched, those of them in a last node that was left half-way (else 0),
columns that hold or expect all, and those that do not."""
Booked: TypeAlias = tuple[int, int]
"""Depth in blocks of the first node that is expected (-1: none), blocks expected anew."""

FASTEST_COLUMNS: Final = 64


def plain_walk(root: Node, keys: bytes, columns: int) -> Walked:
    """Walk a prompt's keys down from `root`, following a mask of columns. O(nodes)."""
    children = root.children
    position = in_last = 0
    end = len(keys)
    path: list[Node] = []
    drops: list[Drop] = []
    while position < end:
        child = children.get(keys[position : position + KEY_BYTES])
        if child is None:
            break
        path.append(child)
        edge = child.edge
        matched = len(edge)
        if not keys.startswith(edge, position):
            matched = first_difference(edge, keys[position : position + matched])
            in_last = matched // KEY_BYTES
        dropped = columns & ~(child.holders | child.expected)
        if dropped:
            columns ^= dropped
            drops.append((dropped, child, position // KEY_BYTES, matched // KEY_BYTES))
        position += matched
        if in_last:
            break
        children = child.children
    return path, position // KEY_BYTES, in_last, columns, drops


def plain_expect(
    path: list[Node], column: int, first_use: int, begun: int, recent: Callable[[Node], Any]
) -> Booked:
    """A request whose prompt is `path` goes to a column. `first_use` is what its first
    use of a node is counted as (`usage`), `begun` what the first request to expect a
    node is (`PrefixTree.expect`), `recent` makes a node the most recently used. O(path)."""
    bit = 1 << column
    depth, blocks = -1, 0
    for node in reversed(path):
        count_use(node, column, first_use)
        if node.holders & bit:
            recent(node)
            continue
        depth = node.depth
        held = node.partial.get(column, 0) if node.partial else 0
        if held:
            recent(node)
        if node.expecting is None:
            node.expecting = {column: begun}
        elif node.expected & bit:
            node.expecting[column] += 1
            continue
        else:
            node.expecting[column] = begun
        node.expected |= bit
        blocks += node.size - held.bit_count()
    return depth, blocks


_Walk: TypeAlias = Callable[[Node, bytes, int], Walked]
_Expect: TypeAlias = Callable[[list[Node], int, int, int, Callable[[Node], Any]], Booked]

fastest_walk: _Walk = plain_walk
fastest_expect: _Expect = plain_expect
try:
    from preble_plugin.core import _speed
except ImportError:
    pass
else:
    _speed.bind(Node)
    fastest_walk, fastest_expect = _speed.walk, _speed.expect
