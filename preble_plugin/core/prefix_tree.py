"""The prefix tree: which blocks follow which, and who holds them.

1. A compressed radix tree over block keys. A node's edge is a run of keys,
   packed in bytes and compared whole; a prompt that leaves a run half-way
   splits it. The split's lower half stays the same object.
2. Who holds a block is kept per *column*: a replica's cache is one column, and
   each further attention group or medium of it is another. A node keeps a bit
   mask of the columns that hold all its blocks, and a bitmap per column that
   holds some of them. A walk therefore costs by nodes, not by blocks or
   replicas.
3. Each block has an *id*, stable while it lives, through splits and merges.
   Residency maps engine hashes to ids; `node_of` and `depth_of` lead back.
4. A column may also *expect* a node: a request was dispatched that will store
   it. Expectations count per request and end by name.
5. A node that nobody holds, expects or needs as a parent is freed, and a node
   with one child of the same holders is merged with it.

The paper's section 3.2 describes the tree; residency by column is ours.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator

from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.match import Match, first_difference


class Node:
    """A run of blocks. Identity is what counts: nodes compare by `is`."""

    __slots__ = (
        "children",
        "depth",
        "edge",
        "expected",
        "expecting",
        "forward",
        "holders",
        "ids",
        "parent",
        "partial",
        "uses",
    )

    def __init__(self, parent: Node | None, edge: bytes, ids: array[int], depth: int) -> None:
        self.parent = parent
        self.edge = edge
        self.ids = ids
        self.depth = depth
        """Blocks between the root and the first of this run."""
        self.children: dict[bytes, Node] = {}
        self.holders = 0
        """Mask of the columns that hold every block of the run."""
        self.partial: dict[int, int] = {}
        """Bitmap by column, for those that hold some blocks but not all."""
        self.expected = 0
        """Mask of the columns for which `expecting` is not empty."""
        self.expecting: dict[int, set[str]] = {}
        """Requests by column that will store this run."""
        self.forward: Node | None = None
        """Where this run went when it was freed or merged away."""
        self.uses: dict[int, list[int]] = {}
        """Windowed use count by column (`core.usage`)."""

    @property
    def length(self) -> int:
        """Blocks in the run."""
        return len(self.ids)

    def holds(self, column: int) -> int:
        """Bitmap of the run's blocks that `column` holds."""
        if self.holders >> column & 1:
            return (1 << len(self.ids)) - 1
        return self.partial.get(column, 0)


class PrefixTree:
    """All prompts' blocks, and who holds them. Not thread-safe."""

    def __init__(self) -> None:
        self.root = Node(None, b"", array("i"), 0)
        self.node_of: list[Node] = []
        self.depth_of: array[int] = array("i")
        self._free_ids: list[int] = []
        self._free_columns: list[int] = []
        self._columns = 0
        self.held: dict[int, OrderedDict[Node, None]] = {}
        """By column, the nodes of which it holds a block, least recently used first."""
        self.expected_blocks: dict[int, int] = {}
        """By column, the blocks of the nodes it expects."""
        self.blocks = 0
        self.nodes = 0

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
        """Forget a column. Its expectations must have ended. O(its nodes)."""
        self.clear(column)
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
            node.partial.pop(column, None)
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
        return Match(path, position // KEY_BYTES, in_last, levels)

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
            bitmap = node.partial.get(column, 0) & ~(1 << offset)
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
                    self.expected_blocks[column] += len(node.ids)
                else:
                    waiting.add(request_id)

    def unexpect(self, leaf: Node, column: int, request_id: str) -> None:
        """End a request's expectations on the path to `leaf`. O(path)."""
        node: Node | None = self.settle(leaf)
        emptied: list[Node] = []
        while node is not None:
            waiting = node.expecting.get(column)
            if waiting is not None and request_id in waiting:
                waiting.discard(request_id)
                if not waiting:
                    self._stop_expecting(node, column)
                    emptied.append(node)
            node = node.parent
        for node in emptied:
            if node.forward is None:
                self._tidy(node)

    def settle(self, node: Node) -> Node:
        """Where a node's blocks are now: itself, what it was merged into, or its
        nearest living ancestor. O(1) amortised."""
        while node.forward is not None:
            node = node.forward
        return node

    def _stop_expecting(self, node: Node, column: int) -> None:
        if node.expecting.pop(column, None) is not None:
            node.expected &= ~(1 << column)
            self.expected_blocks[column] -= len(node.ids)

    # -- making and freeing ------------------------------------------------------

    def split(self, node: Node, at: int) -> Node:
        """Split a run after its first `at` blocks; returns the upper half, a new
        node. `node` becomes the lower half. O(at + columns with a part)."""
        upper = Node(node.parent, node.edge[: at * KEY_BYTES], node.ids[:at], node.depth)
        assert node.parent is not None
        node.parent.children[upper.edge[:KEY_BYTES]] = upper
        node.parent = upper
        node.edge = node.edge[at * KEY_BYTES :]
        node.ids = node.ids[at:]
        node.depth += at
        upper.children[node.edge[:KEY_BYTES]] = node
        for block in upper.ids:
            self.node_of[block] = upper
        self.nodes += 1

        upper.holders = node.holders
        whole, mask = (1 << at) - 1, (1 << len(node.ids)) - 1
        for column, bitmap in list(node.partial.items()):
            self._set_bitmap(upper, column, bitmap & whole, whole)
            self._set_bitmap(node, column, bitmap >> at, mask)
        upper.expected = node.expected
        upper.expecting = {column: set(ids) for column, ids in node.expecting.items()}
        upper.uses = {column: list(use) for column, use in node.uses.items()}
        for column, held in self.held.items():
            if node in held:
                if upper.holders >> column & 1 or column in upper.partial:
                    held[upper] = None
                if not (node.holders >> column & 1 or column in node.partial):
                    del held[node]
        for half in (upper, node):
            for column in [c for c in half.expecting if half.holders >> c & 1]:
                self._stop_expecting(half, column)
        self._tidy(node)
        return upper

    @staticmethod
    def _set_bitmap(node: Node, column: int, bitmap: int, whole: int) -> None:
        node.partial.pop(column, None)
        if bitmap == whole:
            node.holders |= 1 << column
        elif bitmap:
            node.partial[column] = bitmap

    def _new_ids(self, node: Node, depth: int, count: int) -> array[int]:
        free = self._free_ids
        take = min(len(free), count)
        ids = array("i")
        if take:
            ids.extend(free[-take:])
            del free[-take:]
        for place, block in enumerate(ids):
            self.node_of[block] = node
            self.depth_of[block] = depth + place
        more = count - take
        if more:
            start = len(self.node_of)
            ids.extend(range(start, start + more))
            self.node_of.extend([node] * more)
            self.depth_of.extend(range(depth + take, depth + count))
        self.blocks += count
        return ids

    def _new_node(self, parent: Node, edge: bytes) -> Node:
        node = Node(parent, edge, array("i"), parent.depth + len(parent.ids))
        node.ids = self._new_ids(node, node.depth, len(edge) // KEY_BYTES)
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
        """Free what nobody needs from `node` upwards, then merge."""
        while node.parent is not None:
            if node.forward is not None or node.children or node.holders:
                break
            if node.partial or node.expecting:
                break
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
        """Merge a node with its only child where both stand alike."""
        if node.parent is None or len(node.children) != 1:
            return
        (child,) = node.children.values()
        if node.holders != child.holders or node.partial or child.partial:
            return
        if node.expecting or child.expecting:
            return
        if not child.holders and not child.children:
            return  # its own turn to be freed is still to come
        if len(child.ids) <= len(node.ids):
            kept, gone = node, child
            node.children = child.children
            for grandchild in node.children.values():
                grandchild.parent = node
        else:
            kept, gone = child, node
            child.depth = node.depth
            child.parent = node.parent
            node.parent.children[node.edge[:KEY_BYTES]] = child
        for block in gone.ids:
            self.node_of[block] = kept
        edge, ids = node.edge + child.edge, node.ids + child.ids
        kept.edge, kept.ids = edge, ids
        for column, use in gone.uses.items():
            if column not in kept.uses or kept.uses[column] < use:
                kept.uses[column] = use
        for held in self.held.values():
            held.pop(gone, None)
        gone.forward = kept
        self.nodes -= 1

    # -- looking -----------------------------------------------------------------

    def walk(self) -> Iterator[Node]:
        """All nodes but the root, parents first. O(nodes)."""
        stack = list(self.root.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())
