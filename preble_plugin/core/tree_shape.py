"""The prefix tree's shape: runs of blocks that split, grow, merge and are freed.

1. A node's edge is a run of block keys. Where prompts part within a run, it is
   split; the lower half stays the same object, so who remembers the last node of
   a prompt remembers it still.
2. Each block has an *id*, stable while it lives, through splits and merges;
   `node_of` and `depth_of` lead from it to its place. Ids of freed blocks are
   given out again.
3. A node that is not needed is freed, its parents after it; a node whose only
   child stands like itself is merged with it, the smaller half moving, unless
   prompts parted there before. What is gone leads on (`settle`).

What is kept on the nodes is the business of `PrefixTree`, which is told of
splits and merges.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.match import first_difference
from preble_plugin.core.node import Node


class TreeShape:
    """A compressed radix tree over packed block keys."""

    def __init__(self) -> None:
        self.root = Node(None, b"", array("i"), 0)
        self.node_of: list[Node] = []
        self.depth_of: array[int] = array("i")
        self._free_ids: list[int] = []
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
        nearest living ancestor. O(times it moved)."""
        while node.forward is not None:
            node = node.forward
        return node

    def chain(self, parent: int | None, keys: bytes, column: int) -> list[int]:
        """The ids of a run of blocks below the block `parent` (None: the root),
        made where they are missing, for `column` to hold.

        O(nodes on the way + new blocks).
        """
        if parent is None:
            node, offset = self.root, 0
        else:
            node = self.node_of[parent]
            offset = self.depth_of[parent] - node.depth + 1
        ids: list[int] = []
        position, end = 0, len(keys)
        while position < end:
            if offset < len(node.ids):
                rest = node.edge[offset * KEY_BYTES :]
                if keys.startswith(rest, position):
                    matched = len(rest)
                else:
                    matched = first_difference(rest, keys[position : position + len(rest)])
                blocks = matched // KEY_BYTES
                ids.extend(node.ids[offset : offset + blocks])
                position += matched
                offset += blocks
                if position < end and offset < len(node.ids):
                    node = self.split(node, offset)
                continue
            child = node.children.get(keys[position : position + KEY_BYTES])
            if child is not None:
                node, offset = child, 0
                continue
            ids.extend(self._extend_or_add(node, keys[position:], column))
            break
        return ids

    def split(self, node: Node, at: int) -> Node:
        """Split a run after its first `at` blocks; returns the upper half, a new
        node. `node` becomes the lower half, and is freed if nobody needs it.
        O(at + columns that hold a part)."""
        assert node.parent is not None, "the root has no run to split"
        upper = Node(node.parent, node.edge[: at * KEY_BYTES], node.ids[:at], node.depth)
        node.parent.children[upper.edge[:KEY_BYTES]] = upper
        node.parent = upper
        node.edge = node.edge[at * KEY_BYTES :]
        node.ids = node.ids[at:]
        node.depth += at
        upper.children[node.edge[:KEY_BYTES]] = node
        upper.branched = True
        for block in upper.ids:
            self.node_of[block] = upper
        self.nodes += 1
        self._was_split(upper, node)
        self._tidy(node)
        return upper

    def _was_split(self, upper: Node, lower: Node) -> None:
        """Divide what is kept on `lower` between the two."""
        raise NotImplementedError

    def _was_merged(self, kept: Node, gone: Node) -> None:
        """Move what is kept on `gone` to `kept`; both stood alike."""
        raise NotImplementedError

    def _new_ids(self, node: Node, depth: int, count: int) -> array[int]:
        free, node_of, depth_of = self._free_ids, self.node_of, self.depth_of
        ids = array("i", free[-count:])
        del free[-count:]
        place = depth
        for block in ids:
            node_of[block] = node
            depth_of[block] = place
            place += 1
        more = count - len(ids)
        if more:
            start = len(node_of)
            ids.extend(range(start, start + more))
            node_of.extend([node] * more)
            depth_of.extend(range(place, place + more))
        self.blocks += count
        return ids

    def _new_node(self, parent: Node, edge: bytes) -> Node:
        node = Node(parent, edge, array("i"), parent.depth + len(parent.ids))
        node.ids = self._new_ids(node, node.depth, len(edge) // KEY_BYTES)
        if parent.children:
            parent.branched = True
        parent.children[edge[:KEY_BYTES]] = node
        self.nodes += 1
        return node

    def _extend_or_add(self, node: Node, edge: bytes, column: int) -> array[int]:
        """New blocks at the end of `node`: in place where `column`, which is about
        to hold them, is all that has it; else in a new child."""
        if node.holders != 1 << column or node.children or node.partial or node.expecting:
            return self._new_node(node, edge).ids
        ids = self._new_ids(node, node.depth + len(node.ids), len(edge) // KEY_BYTES)
        node.holders = 0
        node.partial[column] = (1 << len(node.ids)) - 1
        node.edge += edge
        node.ids.extend(ids)
        return ids

    def _tidy(self, node: Node) -> None:
        """Free what nobody needs from `node` upwards, then merge. O(blocks freed or
        moved)."""
        while node.parent is not None and node.forward is None and not node.needed:
            parent = node.parent
            del parent.children[node.edge[:KEY_BYTES]]
            self.blocks -= len(node.ids)
            self.nodes -= 1
            self._free_ids.extend(node.ids)
            node.forward = parent
            node = parent
        if node.forward is None:
            self._merge(node)

    def _merge(self, node: Node) -> None:
        """Merge a node with its only child where both stand alike, but for a node
        where prompts parted: the next one would split it again."""
        if node.parent is None or node.branched or len(node.children) != 1:
            return
        (child,) = node.children.values()
        if node.holders != child.holders or node.partial or child.partial:
            return
        if node.expecting or child.expecting:
            return
        if not child.needed:
            return  # its own turn to be freed is still to come
        if len(child.ids) <= len(node.ids):
            kept, gone = node, child
            node.children = child.children
            node.branched = child.branched
            for grandchild in node.children.values():
                grandchild.parent = node
        else:
            kept, gone = child, node
            child.depth = node.depth
            child.parent = node.parent
            node.parent.children[node.edge[:KEY_BYTES]] = child
        for block in gone.ids:
            self.node_of[block] = kept
        kept.edge, kept.ids = node.edge + child.edge, node.ids + child.ids
        gone.forward = kept
        self.nodes -= 1
        self._was_merged(kept, gone)
