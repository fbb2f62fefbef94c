from __future__ import annotations

import sys

import pytest
from tree_builders import block, check, hold, long_prompt, mergeable, release, runs, text, tree

from preble_plugin.core.node import Node
from preble_plugin.core.tree_check import check_tree
from preble_plugin.core.tree_shape import LONGEST_EDGE


def test_a_prompt_is_one_run():
    assert runs(tree(["abcdef"])) == ["abcdef"]


def test_a_run_is_split_where_prompts_part():
    assert runs(tree(["abcdef", "abcxyz"])) == ["abc", "def", "xyz"]


def test_the_lower_half_of_a_split_stays_the_same_node():
    made = tree(["abcdef"])
    leaf = block(made, "abcdef")
    upper = made.split(leaf, 2)
    assert (text(upper.edge), text(leaf.edge)) == ("ab", "cdef")
    assert leaf.parent is upper
    check_tree(made)


def test_a_block_is_found_from_any_node_below_it():
    made = tree(["abcdef", "abcxyz", "abcdeq"])
    leaf = block(made, "abcdef")
    found = "".join(text(made.at(leaf, depth).edge)[0] for depth in range(6))
    assert found == "aaaddf"


def test_a_half_that_nobody_needs_is_freed():
    made = tree(["abcdef"])
    release(made, 0, "abcdef", 2)
    made.split(block(made, "abcdef"), 4)
    assert runs(made) == ["abcd"]
    check(made)


def test_the_parents_of_what_is_freed_are_freed_with_it():
    made = tree(["abcd", "abxy"])
    for prompt in ("ab", "abcd"):
        release(made, 0, prompt, 2)
    release(made, 0, "abxy", 2)
    assert (runs(made), made.nodes, made.blocks) == ([], 0, 0)


def test_a_node_and_its_only_child_become_one():
    made = mergeable(tree(["abcd", "abxy"]))
    release(made, 0, "abxy", 2)
    assert runs(made) == ["abcd"]
    check(made)


def test_merging_goes_on_above_what_was_merged():
    made = mergeable(tree(["abcd", "abxy", "abcq"]))
    release(made, 0, "abcq")
    assert runs(made) == ["ab", "cd", "xy"]
    release(made, 0, "abxy", 2)
    assert runs(made) == ["abcd"]


def test_where_prompts_part_again_and_again_a_run_is_split_once():
    made = tree(["abcd", "abxy"])
    parting = block(made, "ab")
    for prompt in ("abxy", "abuv", "abrs"):
        hold(made, 0, prompt)
        release(made, 0, prompt, 2)
        assert runs(made) == ["ab", "cd"]
    assert block(made, "ab") is parting
    check(made)


def test_what_past_prompts_divided_is_one_when_the_next_parts_beside_it():
    made = tree(["abcdef"])
    for prompt in ("abx", "abcdx", "ax", "abcx"):
        hold(made, 0, prompt)
        release(made, 0, prompt)
    assert runs(made) == ["abc", "def"]
    check(made)


def test_a_node_with_two_children_is_merged_with_neither():
    assert runs(tree(["abcd", "abxy", "ab"])) == ["ab", "cd", "xy"]


def test_a_reference_to_what_was_merged_leads_to_its_blocks():
    made = mergeable(tree(["abcd", "abxy"]))
    upper = block(made, "ab")
    release(made, 0, "abxy", 2)
    assert made.settle(upper) is block(made, "abcd")
    assert made.at(upper, 1) is block(made, "abcd")


def test_a_reference_to_what_was_freed_leads_to_the_nearest_block_above_it():
    made = mergeable(tree(["abcd", "abxy", "abcdef", "abcdxy"]))
    gone = block(made, "abcdef")
    release(made, 0, "abcdef", 2)
    assert made.settle(gone) is block(made, "abcdxy")
    release(made, 0, "abcdxy", 4)
    assert made.settle(gone) is block(made, "abxy")
    release(made, 0, "abxy", 4)
    assert made.settle(gone) is made.root


def test_following_a_reference_again_takes_one_step():
    made = tree(["ab"])
    gone = [Node(None, b"", 0, 0) for _ in range(50)]
    for node, to in zip(gone, [*gone[1:], block(made, "ab")], strict=True):
        node.forward = to
    made.settle(gone[0])
    assert {node.forward for node in gone} == {block(made, "ab")}


@pytest.mark.parametrize("ended", ["abcdxy", "abcd"])
def test_what_is_gone_keeps_nothing_alive(ended: str):
    made = mergeable(tree(["abcdef", "abcdxy"]))
    gone = block(made, ended)
    release(made, 0, "abcdxy", 2)
    assert (gone.edge, gone.children, gone.parent) == (b"", {}, None)


@pytest.mark.parametrize("ended", ["abcdxy", "abcd"])
def test_nothing_keeps_alive_what_is_gone(ended: str):
    made, free = mergeable(tree(["abcdef", "abcdxy"])), Node(None, b"", 0, 0)
    gone = block(made, ended)
    release(made, 0, "abcdxy", 2)
    assert sys.getrefcount(gone) == sys.getrefcount(free)


def test_a_long_prompt_is_a_chain_of_nodes_of_bounded_length():
    made = tree([long_prompt(2 * LONGEST_EDGE + 5)])
    assert [len(run) for run in runs(made)] == [LONGEST_EDGE, LONGEST_EDGE, 5]
    check(made)


def test_a_node_grows_in_place_up_to_its_greatest_length():
    prompt = long_prompt(LONGEST_EDGE + 1)
    made = tree([prompt[: LONGEST_EDGE - 1]])
    leaf = block(made, prompt[: LONGEST_EDGE - 1])
    hold(made, 0, prompt[:LONGEST_EDGE], LONGEST_EDGE - 1)
    assert (leaf.size, made.nodes) == (LONGEST_EDGE, 1)
    hold(made, 0, prompt, LONGEST_EDGE)
    assert (leaf.size, made.nodes) == (LONGEST_EDGE, 2)
    check(made)


@pytest.mark.parametrize(("lower", "nodes"), [(LONGEST_EDGE - 4, 1), (LONGEST_EDGE - 3, 2)])
def test_two_nodes_are_merged_only_to_a_bounded_length(lower: int, nodes: int):
    prompt = long_prompt(4 + lower)
    made = mergeable(tree([prompt, prompt[:4] + "x"]))
    release(made, 0, prompt[:4] + "x")
    assert made.nodes == nodes
    check(made)


def test_the_lower_half_of_a_split_becomes_one_with_its_only_child():
    prompt = long_prompt(LONGEST_EDGE + 10)
    made = tree([prompt, prompt[: LONGEST_EDGE - 5] + "x"])
    assert sorted(len(run) for run in runs(made)) == [1, 15, LONGEST_EDGE - 5]
    check(made)


def test_the_room_is_what_is_left_of_the_most_blocks():
    assert tree(["abc"], max_blocks=10).room == 7


def test_there_is_no_room_in_a_tree_of_more_blocks_than_it_may_have():
    made = tree(["abc"])
    made.max_blocks = 2
    assert made.room == 0
