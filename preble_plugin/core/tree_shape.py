"""The prefix tree's shape: runs of blocks that split, grow, merge and are freed.

1. A node's edge is a run of block keys. Where prompts part within a run, it is
   split; the lower half stays the same object.
2. A block is named by its depth and any node at or below it (`at`): splits put
   new nodes above, so that who remembers the last node of a run remembers it
   still, and nothing is kept for each block.
3. A node that is not needed is freed, its parents after it; a node whose only
   child stands like itself is merged into it, unless prompts parted there
   before. What is gone leads on (`settle`).

What is kept on the nodes is the business of `PrefixTree`, which is told of
splits and merges.
"""

from __future__ import annotations

from collections.abc import Iterator

from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.node import Node


class TreeShape:
    """A compressed radix tree over packed block keys."""

    def __init__(self) -> None:
        self.root = Node(None, b"", 0, 0)
        self.blocks = 0
        self.nodes = 0

    def walk(self) -> Iterator[Node]:
        """All nodes but the root, parents first. O(nodes)."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def settle(self, node: Node) -> Node:
        """Where a node's blocks are now: itself, what it was merged into, or its
        nearest living ancestor. O(times it moved), once."""
        if node.forward is None:
            return node
        found = node.forward
        while found.forward is not None:
            found = found.forward
        while node.forward is not None:
            node.forward, node = found, node.forward
        return found

    def at(self, node: Node, depth: int) -> Node:
        """The node of the block with `depth` blocks before it, on the path to a block
        of `node`. O(nodes between)."""
        node = self.settle(node)
        while node.depth > depth:
            assert node.parent is not None
            node = node.parent
        return node

    def split(self, node: Node, at: int) -> Node:
        """Split a run after its first `at` blocks; returns the upper half, a new
        node. `node` becomes the lower half, and is freed if nobody needs it.
        O(length of the run + columns that hold it)."""
        assert node.parent is not None, "the root has no run to split"
        upper = Node(node.parent, node.edge[: at * KEY_BYTES], at, node.depth)
        node.parent.children[upper.edge[:KEY_BYTES]] = upper
        node.parent = upper
        node.edge = node.edge[at * KEY_BYTES :]
        node.size -= at
        node.depth += at
        upper.children[node.edge[:KEY_BYTES]] = node
        upper.branched = True
        self.nodes += 1
        self._was_split(upper, node)
        if not node.needed:
            self._tidy(node)
        return upper

    def _was_split(self, upper: Node, lower: Node) -> None:
        """Divide what is kept on `lower` between the two."""
        raise NotImplementedError

    def _was_merged(self, kept: Node, gone: Node) -> None:
        """Move what is kept on `gone` to `kept`; both stood alike."""
        raise NotImplementedError

    def _new_node(self, parent: Node, edge: bytes) -> Node:
        size = len(edge) // KEY_BYTES
        node = Node(parent, edge, size, parent.depth + parent.size)
        if parent.children:
            parent.branched = True
        parent.children[edge[:KEY_BYTES]] = node
        self.nodes += 1
        self.blocks += size
        return node

    def _tidy(self, node: Node) -> None:
        """Free what nobody needs from `node` upwards, then merge. O(nodes freed, and
        length of what is merged)."""
        while (
            not (node.children or node.holders or node.partial or node.expected)
            and node.forward is None
            and node.parent is not None
        ):
            parent = node.parent
            del parent.children[node.edge[:KEY_BYTES]]
            self.blocks -= node.size
            self.nodes -= 1
            node.forward = parent
            node = parent
        if len(node.children) == 1 and not node.branched and node.forward is None:
            self._merge(node)

    def _merge(self, node: Node) -> None:
        """Merge a node into its only child where both stand alike, but for a node
        where prompts parted: the next one would split it again."""
        if node.parent is None:
            return
        (child,) = node.children.values()
        if node.holders != child.holders or node.partial or child.partial:
            return
        if node.expected or child.expected:
            return
        if not child.needed:
            return  # its own turn to be freed is still to come
        child.depth = node.depth
        child.parent = node.parent
        child.edge = node.edge + child.edge
        child.size += node.size
        node.parent.children[node.edge[:KEY_BYTES]] = child
        node.forward = child
        self.nodes -= 1
        self._was_merged(child, node)
