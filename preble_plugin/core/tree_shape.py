"""The prefix tree's shape: runs of blocks that split, grow, merge and are freed.

1. A node's edge is a run of up to `LONGEST_EDGE` block keys, so that no operation on a
   node costs more for a longer prompt. Where prompts part within a run, it is split;
   the lower half stays the same object.
2. A block is named by its depth and any node at or below it (`at`): splits put new
   nodes above, so a reference to the last node of a run stays valid, and nothing is
   kept for each block.
3. A node that is not needed is freed, its parents after it. A node and its only child
   are merged once the same columns hold both. Only where prompts parted they stay two,
   since the next one will part there too, until a prompt parts right beside: so a node
   costs nothing that many prompts part at, and of those that past prompts left at
   random a path keeps one. A node that is gone forwards to where its blocks are
   (`settle`).

What is kept on the nodes is the business of the subclasses, which divide it when a node
is split and join it when two are merged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.node import Node

LONGEST_EDGE: Final = 4096
"""Blocks of a node: a bitmap of 512 bytes, keys of 32 KiB."""


class TreeShape:
    """A compressed radix tree over packed block keys, of at most `max_blocks` blocks."""

    def __init__(self, max_blocks: int) -> None:
        self.root = Node(None, b"", 0, 0)
        self.max_blocks = max_blocks
        self.blocks = 0
        self.nodes = 0

    @property
    def room(self) -> int:
        """Blocks that may still be added."""
        return max(self.max_blocks - self.blocks, 0)

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
        node. `node` becomes the lower half, and is freed if nobody needs it. Both are
        merged with neighbours that other prompts have split off before: the upper one may
        then begin where its parent began, which is gone.
        O(length of the runs + columns that hold them)."""
        parent = node.parent
        assert parent is not None, "the root has no run to split"
        upper = Node(parent, node.edge[: at * KEY_BYTES], at, node.depth)
        parent.children[upper.edge[:KEY_BYTES]] = upper
        node.parent = upper
        node.edge = node.edge[at * KEY_BYTES :]
        node.size -= at
        node.depth += at
        upper.children[node.edge[:KEY_BYTES]] = node
        self.nodes += 1
        self._was_split(upper, node)
        if node.needed:
            self._trim(node)
            self._merge(node)
        else:
            self._free(node)
        self._merge(parent)
        upper.parted = True
        return upper

    def _was_split(self, upper: Node, lower: Node) -> None:
        """Divide what is kept on `lower` between the two."""
        raise NotImplementedError

    def _trim(self, node: Node) -> None:
        """Free blocks at the end of a node that nobody needs."""
        raise NotImplementedError

    def _can_merge(self, node: Node, child: Node) -> bool:
        """Whether what is kept on a node and its only child can be kept on one."""
        raise NotImplementedError

    def _will_merge(self, gone: Node, kept: Node) -> None:
        """Join what is kept on `gone` and on its only child `kept`, on the latter."""
        raise NotImplementedError

    def _new_nodes(self, parent: Node, keys: bytes) -> Node:
        """Make nodes for a run of new blocks below `parent`; returns the last. O(blocks)."""
        longest = LONGEST_EDGE * KEY_BYTES
        while len(keys) > longest:
            parent = self._new_node(parent, keys[:longest])
            keys = keys[longest:]
        return self._new_node(parent, keys)

    def _new_node(self, parent: Node, edge: bytes) -> Node:
        size = len(edge) // KEY_BYTES
        node = Node(parent, edge, size, parent.depth + parent.size)
        parent.children[edge[:KEY_BYTES]] = node
        self.nodes += 1
        self.blocks += size
        return node

    def _free(self, node: Node) -> Node:
        """Free a node that nobody needs; returns its parent. O(1)."""
        parent = node.parent
        assert parent is not None
        del parent.children[node.edge[:KEY_BYTES]]
        self.blocks -= node.size
        self._forward(node, parent)
        return parent

    def _tidy(self, node: Node) -> None:
        """Free what nobody needs from `node` upwards, then merge what is left with its
        neighbours. O(nodes freed, and length of what is merged)."""
        while not node.needed and node.forward is None and node.parent is not None:
            node = self._free(node)
        if node.forward is None and node.parent is not None:
            if node.partial:
                self._trim(node)
            self._join(node)

    def _join(self, node: Node) -> Node:
        """Merge a node with those below and above it as far as they can be one; returns
        what it is part of then. Where prompts parted at its end it stays apart from its
        child, and what others left right beside is merged. O(length of what is merged)."""
        joined = True
        while joined:
            joined = False
            kept = node.parted and len(node.children) == 1
            if kept:
                (child,) = node.children.values()
                while self._merge(child):
                    child = self.settle(child)
            else:
                while self._merge(node):
                    node = self.settle(node)
            while node.parent is not None and (kept or not node.parent.parted):
                if not self._merge(node.parent):
                    break
                joined = True
        return node

    def _merge(self, node: Node) -> bool:
        """Merge a node into its only child, if that is all it has and both can be one."""
        parent = node.parent
        if parent is None or len(node.children) != 1:
            return False
        (child,) = node.children.values()
        # A child that is not needed is about to be freed.
        if (
            node.size + child.size > LONGEST_EDGE
            or not child.needed
            or not self._can_merge(node, child)
        ):
            return False
        self._will_merge(node, child)
        child.depth = node.depth
        child.parent = parent
        child.edge = node.edge + child.edge
        child.size += node.size
        parent.children[node.edge[:KEY_BYTES]] = child
        node.children = {}
        self._forward(node, child)
        return True

    def _forward(self, node: Node, to: Node) -> None:
        """A node is gone; who refers to it is led to another. It keeps nothing alive."""
        self.nodes -= 1
        node.forward = to
        node.parent = None
        node.edge = b""
