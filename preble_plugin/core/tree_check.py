"""What is always true of a prefix tree, checked after each step of the tests."""

from __future__ import annotations

from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.residency import Residency


def check_tree(tree: PrefixTree) -> None:
    """Assert every invariant of the tree. O(blocks x columns)."""
    nodes = blocks = 0
    held: dict[int, set[int]] = {column: set() for column in tree.held}
    expected = dict.fromkeys(tree.held, 0)
    for node in tree.walk():
        nodes += 1
        length = node.size
        blocks += length
        whole = (1 << length) - 1
        assert length > 0, "a node without blocks"
        assert len(node.edge) == length * KEY_BYTES, "edge and size differ"
        assert node.forward is None, "a gone node in the tree"
        parent = node.parent
        assert parent is not None
        assert parent.children[node.edge[:KEY_BYTES]] is node, "a child its parent does not know"
        assert node.depth == parent.depth + parent.size, "wrong depth"
        for column, bitmap in (node.partial or {}).items():
            assert 0 < bitmap < whole, "a partial bitmap that is empty or whole"
            assert not node.holders >> column & 1, "both whole and partial"
        for column in tree.held:
            if node.holds(column):
                held[column].add(id(node))
        mask = 0
        for column, requests in (node.expecting or {}).items():
            assert requests & 0xFFFFFF, "an expectation of nobody"
            assert not node.holders >> column & 1, "expected though held"
            mask |= 1 << column
            expected[column] += length - node.holds(column).bit_count()
        assert mask == node.expected, "expected mask and sets differ"
        assert node.needed, "a node that nobody needs"
    assert nodes == tree.nodes, "node count"
    assert blocks == tree.blocks, "block count"
    for column, order in tree.held.items():
        assert {id(node) for node in order} == held[column], "held order and bitmaps differ"
    assert expected == tree.expected_blocks, "expected blocks"


def check_residency(tree: PrefixTree, residency: Residency) -> None:
    """Assert that a replica's names and its bitmaps agree. O(blocks)."""
    copies = 0
    for layer in (residency.main, *residency.layers.values()):
        in_tree = sum(node.holds(layer.column).bit_count() for node in tree.held[layer.column])
        assert in_tree == len(layer.names), "blocks held and hashes known differ"
        places: set[tuple[int, int]] = set()
        for name in layer.names:
            run = layer.names.find(name)
            assert run is not None
            depth = run.depth_of(name)
            assert tree.holds(layer.column, run.node, depth), "a hash of nothing"
            places.add((id(tree.at(run.node, depth)), depth))
        assert len(places) == in_tree, "two hashes of one block in one layer"
        for run in layer.names.runs():
            assert run.names[-1] is not None, "a run that ends with what is gone"
            assert all(layer.names.find(name) is run for name in run.names if name is not None)
        for name, count in layer.more_copies.items():
            assert count > 0, "a copy count of zero"
            assert name in layer.names, "copies of nothing"
        if (layer.group, layer.medium) == (residency.main.group, residency.main.medium):
            copies += in_tree + layer.more_copies.total()
    assert residency.copies == copies, "copy count"
