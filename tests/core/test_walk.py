"""Down a tree and back up: each implementation against what the tree is known to hold."""

from __future__ import annotations

import random

import pytest
from compiled import IMPLEMENTATIONS

from preble_plugin.core.block_keys import BlockHasher
from preble_plugin.core.node import Node
from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.tree_check import check_tree
from preble_plugin.core.walk import FASTEST_COLUMNS

COLUMNS = 70
HASHER = BlockHasher(1, b"seed" * 4)


def grown(seed: int) -> tuple[PrefixTree, list[bytes]]:
    """A tree whose columns hold parts of prompts that have much in common."""
    choose = random.Random(seed)
    tree = PrefixTree()
    for _ in range(COLUMNS):
        tree.add_column()
    prompts = [
        HASHER.prompt_keys([choose.randrange(2) for _ in range(choose.randrange(1, 40))])
        for _ in range(30)
    ]
    for keys in prompts:
        for column in choose.sample(range(COLUMNS), 5):
            leaf, _, _ = tree.hold(column, tree.root, 0, keys)
            if choose.random() < 0.4:
                tree.release(column, leaf, choose.randrange(len(keys) // 8))
        match = tree.match(keys, 1)
        tree.grow(keys, match)
        tree.expect(match.path, choose.randrange(COLUMNS), 0)
    check_tree(tree)
    return tree, prompts


def columns_at(node: Node) -> int:
    return node.holders | node.expected


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("seed", range(5))
def test_a_walk_finds_the_path_and_where_each_column_leaves_it(implementation, seed):
    tree, prompts = grown(seed)
    every = (1 << FASTEST_COLUMNS) - 1
    for keys in [*prompts, b"", *(prompt + b"x" * 16 for prompt in prompts)]:
        found = IMPLEMENTATIONS[implementation].walk(tree.root, keys, every)
        path, blocks, in_last, alive, drops = found
        edges = b"".join(node.edge for node in path)
        assert edges[: blocks * 8] == keys[: blocks * 8]
        assert keys[blocks * 8 : blocks * 8 + 8] != edges[blocks * 8 : blocks * 8 + 8] or (
            blocks * 8 == len(keys)
        )
        expected, left = every, []
        for node in path:
            gone = expected & ~columns_at(node)
            expected &= ~gone
            if gone:
                matched = min(node.size, blocks - node.depth)
                left.append((gone, node, node.depth, matched))
        assert (alive, drops) == (expected, left)
        assert in_last == (
            blocks - path[-1].depth if path and blocks < path[-1].depth + path[-1].size else 0
        )


def standing(path: list[Node]) -> list[tuple[object, ...]]:
    return [(dict(node.uses or {}), dict(node.expecting or {}), node.expected) for node in path]


@pytest.mark.parametrize("seed", range(5))
def test_both_expect_alike(seed):
    if len(IMPLEMENTATIONS) < 2:
        pytest.skip("the package was built without a compiler")
    found = []
    for implementation in IMPLEMENTATIONS.values():
        tree, prompts = grown(seed)
        choose = random.Random(seed)
        for number in range(200):
            keys = choose.choice(prompts)
            match = tree.match(keys, 1)
            tree.grow(keys, match)
            recent: list[Node] = []
            column = choose.randrange(FASTEST_COLUMNS)
            booked = implementation.expect(
                match.path,
                column,
                5 + number // 40 << 40 | 1 << 20,
                number + 1 << 24 | 1,
                recent.append,
            )
            places = [match.path.index(node) for node in recent]
            found.append((booked, places, standing(match.path)))
    half = len(found) // 2
    assert found[:half] == found[half:]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_what_is_held_becomes_recent_and_what_is_not_is_expected(implementation):
    tree = PrefixTree()
    column = tree.add_column()
    keys = HASHER.prompt_keys(list(range(10)))
    tree.hold(column, tree.root, 0, keys[: 4 * 8])
    match = tree.match(keys, 1 << column)
    tree.grow(keys, match)
    recent: list[Node] = []
    booked = IMPLEMENTATIONS[implementation].expect(
        match.path, column, 1 << 20, 1 << 24 | 1, recent.append
    )
    assert booked == (4, 6)
    assert recent == [match.path[0]]
    assert [node.expected for node in match.path] == [0, 1 << column]


def test_columns_beyond_the_compiled_ones_are_walked_all_the_same():
    tree, prompts = grown(1)
    for keys in prompts:
        levels = dict.fromkeys(range(COLUMNS), 0)
        for columns, blocks in tree.match(keys, (1 << COLUMNS) - 1).levels:
            for column in range(COLUMNS):
                if columns >> column & 1:
                    levels[column] = blocks
        for column in range(COLUMNS):
            (alone,) = [b for _, b in tree.match(keys, 1 << column).levels] or [0]
            assert alone == levels[column]


compiled = pytest.mark.skipif("compiled" not in IMPLEMENTATIONS, reason="built without a compiler")


def held_path(nodes: int) -> list[Node]:
    path = [Node(None, b"k" * 8, 1, depth) for depth in range(nodes)]
    for node in path:
        node.holders = 1
    return path


@compiled
def test_a_path_that_shrinks_while_it_is_booked_is_refused():
    path = held_path(5)
    with pytest.raises(RuntimeError, match="path changed"):
        IMPLEMENTATIONS["compiled"].expect(path, 0, 0, 1, lambda node: path.clear())


@compiled
@pytest.mark.parametrize(
    ("slot", "value", "error"),
    [
        ("size", -1, ValueError),
        ("size", 2**70, OverflowError),
        ("depth", -1, ValueError),
        ("depth", None, TypeError),
        ("holders", None, TypeError),
        ("expected", "1", TypeError),
        ("partial", {0: None}, TypeError),
        ("partial", [], TypeError),
        ("uses", {0: 2**63}, OverflowError),
        ("uses", {0: None}, TypeError),
    ],
)
def test_a_slot_that_cannot_be_read_is_an_error_of_its_own(slot, value, error):
    node = Node(None, b"k" * 8, 1, 0)
    setattr(node, slot, value)
    with pytest.raises(error):
        IMPLEMENTATIONS["compiled"].expect([node], 0, 0, 1, lambda node: None)


@compiled
@pytest.mark.parametrize(("first", "begun"), [(2**63, 1), (0, 2**63), (None, 1), (0, None)])
def test_counters_that_the_compiled_loop_cannot_read_change_nothing(first, begun):
    node = Node(None, b"k" * 8, 1, 0)
    with pytest.raises((OverflowError, TypeError)):
        IMPLEMENTATIONS["compiled"].expect([node], 0, first, begun, lambda node: None)
    assert (node.uses, node.expecting, node.expected) == (None, None, 0)


@compiled
def test_requests_that_expect_a_node_do_not_wrap():
    node = Node(None, b"k" * 8, 1, 0)
    node.expected, node.expecting = 1, {0: 2**63 - 1}
    with pytest.raises(OverflowError):
        IMPLEMENTATIONS["compiled"].expect([node], 0, 0, 1, lambda node: None)
    assert node.expecting == {0: 2**63 - 1}


@compiled
def test_a_slot_that_was_emptied_is_an_error():
    node = Node(None, b"k" * 8, 1, 0)
    del node.depth
    with pytest.raises(AttributeError):
        IMPLEMENTATIONS["compiled"].expect([node], 0, 0, 1, lambda node: None)
