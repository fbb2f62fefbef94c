"""The nodes that one column holds, in the order in which LRU evicts them.

A doubly linked list in two dicts: the nodes get no object each, which the garbage
collector would have to visit, and a node can be put beside another, which
`OrderedDict` cannot do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from preble_plugin.core.node import Node

_END: Final = Node(None, b"", 0, 0)
"""Before the first node and after the last."""


class UseOrder:
    """Nodes, least recently used first. Every method but `clear` and iteration is O(1)."""

    __slots__ = ("_after", "_before")

    def __init__(self) -> None:
        self._after: dict[Node, Node] = {_END: _END}
        self._before: dict[Node, Node] = {_END: _END}

    def __len__(self) -> int:
        return len(self._after) - 1

    def __contains__(self, node: Node) -> bool:
        return node in self._after

    def __iter__(self) -> Iterator[Node]:
        after = self._after
        node = after[_END]
        while node is not _END:
            yield node
            node = after[node]

    def use(self, node: Node) -> None:
        """Make a node the most recently used; it is added if it is missing."""
        after, before = self._after, self._before
        next_one = after.get(node)
        if next_one is _END:
            return
        if next_one is not None:
            previous = before[node]
            after[previous], before[next_one] = next_one, previous
        last = before[_END]
        after[last] = before[_END] = node
        before[node], after[node] = last, _END

    def add_after(self, node: Node, added: Node) -> None:
        """Add a node that is evicted right after `node`, which is there."""
        after, before = self._after, self._before
        next_one = after[node]
        after[node], after[added] = added, next_one
        before[next_one], before[added] = added, node

    def replace(self, node: Node, other: Node) -> None:
        """Put `other` where `node` is, which leaves; `other` leaves its own place."""
        self.discard(other)
        self.add_after(node, other)
        self.discard(node)

    def discard(self, node: Node) -> None:
        """Remove a node, if it is there."""
        next_one = self._after.pop(node, None)
        if next_one is not None:
            previous = self._before.pop(node)
            self._after[previous], self._before[next_one] = next_one, previous

    def clear(self) -> None:
        """Remove all nodes. O(nodes)."""
        self.__init__()  # type: ignore[misc]
