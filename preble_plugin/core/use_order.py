"""The nodes that one column holds, in the order in which LRU evicts them.

A doubly linked list in two dicts: the nodes get no object each, which the garbage
collector would have to visit, and a node can be put beside another, which
`OrderedDict` cannot do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, TypeAlias

from preble_plugin.core.node import Node

_END: Final = Node(None, b"", 0, 0)
"""Before the first node and after the last."""

_Links: TypeAlias = dict[Node, Node]


def plain_use(after: _Links, before: _Links, end: Node, node: Node) -> None:
    """`UseOrder.use`, on the order's two dicts."""
    next_one = after.get(node)
    if next_one is end:
        return
    if next_one is not None:
        previous = before[node]
        after[previous], before[next_one] = next_one, previous
    last = before[end]
    after[last] = before[end] = node
    before[node], after[node] = last, end


fastest_use: Callable[[_Links, _Links, Node, Node], None] = plain_use
"""Its compiled form where there is one."""
with contextlib.suppress(ImportError):
    from preble_plugin.core._speed import use as fastest_use


class UseOrder:
    """Nodes, least recently used first. Every method but `clear` and iteration is O(1)."""

    __slots__ = ("_after", "_before", "use")

    def __init__(self) -> None:
        self._after: _Links = {_END: _END}
        self._before: _Links = {_END: _END}
        self.use: Callable[[Node], None] = partial(fastest_use, self._after, self._before, _END)
        """Make a node the most recently used; it is added if it is missing. O(1)."""

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
