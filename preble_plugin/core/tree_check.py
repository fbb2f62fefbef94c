"""What is always true of a prefix tree, checked after each step of the tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.layer import Layer
from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.residency import Residency
from preble_plugin.core.tree_shape import LONGEST_EDGE


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
        for column, counts in (node.more_holds or {}).items():
            assert counts, "no further holds, listed"
            for depth, count in counts.items():
                assert count > 0, "a further hold of nobody"
                assert node.depth <= depth < node.depth + length, "a hold on another's block"
                assert node.holds(column) >> depth - node.depth & 1, "held again, not at all"
        mask = 0
        for column, requests in (node.expecting or {}).items():
            assert requests & 0xFFFFFF, "an expectation of nobody"
            assert not node.holders >> column & 1, "expected though held"
            mask |= 1 << column
            expected[column] += length - node.holds(column).bit_count()
        assert mask == node.expected, "expected mask and sets differ"
        assert node.needed, "a node that nobody needs"
        if not (node.children or node.holders or node.expected):
            union = 0
            for bitmap in (node.partial or {}).values():
                union |= bitmap
            assert 2 * union.bit_length() > length, "half of a node is held by nobody"
    assert nodes == tree.nodes, "node count"
    assert blocks == tree.blocks, "block count"
    assert blocks <= tree.max_blocks, "more blocks than the tree may have"
    for column, order in tree.held.items():
        listed = [id(node) for node in order]
        assert len(listed) == len(set(listed)) == len(order), "a node twice in the order of use"
        assert set(listed) == held[column], "held order and bitmaps differ"
    assert expected == tree.expected_blocks, "expected blocks"


def check_merged(tree: PrefixTree) -> None:
    """Assert that no node and its only child could be one, but for where prompts
    parted. O(nodes)."""
    for node in tree.walk():
        if len(node.children) == 1 and not node.parted:
            (child,) = node.children.values()
            assert node.size + child.size > LONGEST_EDGE or not tree._can_merge(node, child), (
                "two nodes that could be one"
            )


def check_residency(tree: PrefixTree, residency: Residency) -> None:
    """Assert that a replica's hashes and its bitmaps agree. O(blocks)."""
    check_layers(tree, residency.all_layers)


def check_layers(tree: PrefixTree, layers: Iterable[Layer]) -> None:
    """Assert that the hashes of layers and their bitmaps agree. O(blocks)."""
    runs: set[int] = set()
    for layer in layers:
        held = sum(node.holds(layer.column).bit_count() for node in tree.held[layer.column])
        names: Counter[tuple[int, int]] = Counter()
        for engine_hash in layer.index:
            place = layer.index.find(engine_hash)
            assert place is not None
            names[id(tree.at(*place)), place[1]] += 1
            assert tree.holds(layer.column, *place), "a hash of nothing"
        assert len(names) == held, "a block held under no hash"
        for engine_hash in layer.index:
            node, depth = layer.index.find(engine_hash) or (tree.root, 0)
            holds = tree.holds(layer.column, node, depth)
            assert holds == names[id(tree.at(node, depth)), depth], "holds and hashes differ"
        for run in layer.index.runs():
            assert id(run) not in runs, "a run of two layers"
            runs.add(id(run))
            assert run.hashes[-1] is not None, "a run that ends with what is gone"
            for depth, name in enumerate(run.hashes, run.depth):
                assert name is None or layer.index.find(name) == (run.node, depth)
        for engine_hash, count in layer.copies.items():
            assert count > 0, "a copy count of zero"
            assert engine_hash in layer.index, "copies of nothing"
        for copies in (layer.copies, layer.unplaced):
            assert copies.total == sum(count for _, count in copies.items()), "sum of copies"
