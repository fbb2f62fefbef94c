"""What is always true of a prefix tree, checked after each step of the tests."""

from __future__ import annotations

from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.residency import Residency


def check_tree(tree: PrefixTree) -> None:
    """Assert every invariant of the tree. O(blocks x columns)."""
    seen: set[int] = set()
    nodes = 0
    held: dict[int, set[int]] = {column: set() for column in tree.held}
    expected = dict.fromkeys(tree.held, 0)
    for node in tree.walk():
        nodes += 1
        length = len(node.ids)
        whole = (1 << length) - 1
        assert length > 0, "a node without blocks"
        assert len(node.edge) == length * KEY_BYTES, "edge and ids differ in length"
        assert node.forward is None, "a gone node in the tree"
        parent = node.parent
        assert parent is not None
        assert parent.children[node.edge[:KEY_BYTES]] is node, "a child its parent does not know"
        assert node.depth == parent.depth + len(parent.ids), "wrong depth"
        for offset, block in enumerate(node.ids):
            assert tree.node_of[block] is node, "an id leads to another node"
            assert tree.depth_of[block] == node.depth + offset, "an id has another depth"
            assert block not in seen, "an id used twice"
            seen.add(block)
        for column, bitmap in node.partial.items():
            assert 0 < bitmap < whole, "a partial bitmap that is empty or whole"
            assert not node.holders >> column & 1, "both whole and partial"
        for column in tree.held:
            if node.holds(column):
                held[column].add(id(node))
        mask = 0
        for column, requests in node.expecting.items():
            assert requests, "an expectation of nobody"
            assert not node.holders >> column & 1, "expected though held"
            mask |= 1 << column
            expected[column] += length - node.holds(column).bit_count()
        assert mask == node.expected, "expected mask and sets differ"
        assert node.needed, "a node that nobody needs"
    assert nodes == tree.nodes, "node count"
    assert len(seen) == tree.blocks, "block count"
    for column, order in tree.held.items():
        assert {id(node) for node in order} == held[column], "held order and bitmaps differ"
    assert expected == tree.expected_blocks, "expected blocks"


def check_residency(tree: PrefixTree, residency: Residency) -> None:
    """Assert that a replica's maps and its bitmaps agree. O(blocks)."""
    for layer in (residency.main, *residency.layers.values()):
        in_tree = sum(node.holds(layer.column).bit_count() for node in tree.held[layer.column])
        in_maps = {block for block in residency.ids.values() if tree.holds(layer.column, block)}
        assert len(in_maps) == in_tree, "blocks held and hashes known differ"
        for block, count in layer.more_copies.items():
            assert count > 0, "a copy count of zero"
            assert tree.holds(layer.column, block), "copies of nothing"
    layers = (residency.main, *residency.layers.values())
    for block in residency.ids.values():
        assert any(tree.holds(layer.column, block) for layer in layers), "a hash of nothing"
    main = residency.main
    blocks = sum(node.holds(main.column).bit_count() for node in tree.held[main.column])
    copies = blocks + main.more_copies.total()
    assert residency.copies == copies, "copy count"
