from __future__ import annotations

import pytest
from tree_builders import (
    block,
    check,
    evicted,
    expect,
    hold,
    holds,
    keys,
    levels,
    long_prompt,
    mergeable,
    release,
    runs,
    tree,
)

from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.tree_check import check_tree
from preble_plugin.core.tree_shape import LONGEST_EDGE

# -- columns -----------------------------------------------------------------------------


def test_a_column_that_is_free_again_is_given_again():
    made = tree(["ab"], ["cd"])
    made.remove_column(0)
    assert [made.add_column(), made.add_column()] == [0, 2]
    assert evicted(made, 0) == []


def test_what_one_column_alone_held_is_freed_when_it_is_cleared():
    made = mergeable(tree(["abcd", "abxy"], ["abcd"]))
    made.clear(0)
    assert (runs(made), made.blocks) == (["abcd"], 4)
    check(made)


def test_the_end_of_a_run_is_freed_once_nobody_holds_half_of_it():
    made = tree(["abcdef"], ["abcdef"])
    release(made, 0, "abcdef", 5)
    release(made, 1, "abcdef", 2)
    assert runs(made) == ["abcdef"]
    release(made, 1, "abcd")
    assert (runs(made), made.blocks) == (["abc"], 3)
    assert [holds(made, column, "abc") for column in (0, 1)] == [[1, 0, 0], [1, 1, 1]]
    check(made)


def test_a_run_is_not_merged_with_one_that_is_about_to_be_freed():
    made = tree(["abcd", "abxy"], ["a"])
    made.clear(0)
    assert (runs(made), made.blocks) == (["a"], 1)
    check(made)


def test_a_column_that_is_cleared_holds_no_block_and_no_more_of_one():
    made = tree(["abcd"], ["abcd"])
    made.hold_again(0, block(made, "abcd"), 2)
    made.clear(0)
    hold(made, 0, "abcd")
    assert holds(made, 0, "abcd") == [1, 1, 1, 1]


def test_what_a_column_expects_it_still_expects_when_it_is_cleared():
    made = tree(["abcd"], ["abcd"])
    release(made, 0, "ab")
    expected = expect(made, 0, "abcd")
    assert made.expected_blocks[0] == 1
    made.clear(0)
    check_tree(made)
    assert made.expected_blocks[0] == 4
    made.unexpect(expected, 0)
    check(made)


def test_clearing_one_column_merges_what_it_kept_apart():
    made = tree(["abcd"], ["ab"])
    made.clear(1)
    assert runs(made) == ["abcd"]


def test_a_column_that_is_removed_takes_its_uses_with_it():
    made = tree(["abcd"], ["abcd"])
    for column in (0, 1):
        made.unexpect(expect(made, column, "abcd"), column)
    made.remove_column(0)
    assert block(made, "abcd").uses == {1: 1 << 20}


# -- holding -----------------------------------------------------------------------------


def test_blocks_that_were_held_are_told_by_number():
    made = tree(["abcd", "abxy"])
    release(made, 0, "abc")
    _, blocks, before = made.hold(0, block(made, "a"), 1, keys("bcdef"))
    assert (blocks, before) == (5, 0b101)
    check(made)


def test_what_is_held_ends_in_the_leaf_that_is_returned():
    made = tree(["abcd"])
    leaf = made.hold(0, made.root, 0, keys("abxyz"))[0]
    assert made.settle(leaf) is block(made, "abxyz")


def test_a_run_is_held_below_the_middle_of_another():
    made = tree(["abcdef"])
    assert hold(made, 0, "abcxyz", 3) == 3
    assert runs(made) == ["abc", "def", "xyz"]
    check(made)


def test_the_middle_of_a_run_is_held():
    made = tree(["abcdef"], columns=2)
    leaf = block(made, "abcdef")
    assert made.hold(1, leaf, 1, keys("bcd"))[1] == 3
    assert holds(made, 1, "abcdef") == [0, 1, 1, 1, 0, 0]


def test_a_run_that_others_hold_does_not_grow_in_place():
    made = tree(["ab"], ["ab"])
    hold(made, 0, "abcd", 2)
    assert runs(made) == ["ab", "cd"]
    check(made)


def test_a_run_that_others_expect_does_not_grow_in_place():
    made = tree(["ab"], columns=2)
    expect(made, 1, "ab")
    hold(made, 0, "abcd", 2)
    assert (runs(made), made.expected_blocks[1]) == (["ab", "cd"], 2)
    check_tree(made)


def test_two_columns_that_grow_alike_share_one_run():
    made = tree(["ab"], ["ab"])
    for length in range(3, 20):
        for column in (0, 1):
            hold(made, column, long_prompt(length), length - 1 if length > 3 else 0)
    assert [len(run) for run in runs(made)] == [2, 19]
    check(made)


def test_a_hole_is_closed():
    made = tree(["abcdef"], ["abcdef"])
    release(made, 0, "abc")
    assert levels(made, "abcdef") == [2, 6]
    made.hold_run(0, block(made, "abc"), 2, 1)
    assert levels(made, "abcdef") == [6, 6]
    check(made)


def test_a_run_across_nodes_is_held_from_below():
    made = tree(["abcd", "abxy"], columns=2)
    made.hold_run(1, block(made, "abcd"), 1, 1)
    assert made.hold_run(1, block(made, "abcd"), 0, 3) == 0b010
    assert holds(made, 1, "abcd") == [1, 1, 1, 0]
    check_tree(made)


# -- at the cap --------------------------------------------------------------------------


def test_a_full_tree_holds_what_it_has_for_another_column():
    made = tree(["abcdef"], columns=2, max_blocks=6)
    assert hold(made, 1, "abcdef") == 6
    check(made)


@pytest.mark.parametrize(("room", "held"), [(0, 4), (1, 5), (2, 6), (3, 6)])
def test_a_tree_holds_as_many_new_blocks_as_it_has_room_for(room: int, held: int):
    made = tree(["abcdef"], columns=2, max_blocks=6 + room)
    assert hold(made, 1, "abcdxy") == held
    assert made.blocks == 6 + held - 4
    check(made)


@pytest.mark.parametrize("prompt", ["abxy", "abcdefg", "xy"])
def test_a_full_tree_is_not_split_for_what_it_has_no_room_for(prompt: str):
    made = tree(["abcdef"], max_blocks=6)
    hold(made, 0, prompt)
    assert (runs(made), made.blocks) == (["abcdef"], 6)
    check(made)


def test_a_long_store_ends_where_the_tree_is_full():
    made = PrefixTree(max_blocks=LONGEST_EDGE + 7)
    made.add_column()
    assert hold(made, 0, long_prompt(3 * LONGEST_EDGE)) == LONGEST_EDGE + 7
    check(made)


# -- blocks held several times -----------------------------------------------------------


def test_a_block_is_held_until_its_last_hold_is_released():
    made = tree(["abcd"])
    for _ in range(2):
        made.hold_again(0, block(made, "abcd"), 3)
    found = []
    for _ in range(2):
        release(made, 0, "abcd")
        found.append(holds(made, 0, "abcd"))
    assert found == [[1, 1, 1, 2], [1, 1, 1, 1]]
    release(made, 0, "abcd")
    assert holds(made, 0, "abcd") == [1, 1, 1, 0]
    check(made)


def test_a_release_of_many_ends_one_hold_of_each():
    made = tree(["abcd", "abxy"])
    for depth in (1, 3):
        made.hold_again(0, block(made, "abcd"), depth)
    release(made, 0, "abcd", 4)
    assert holds(made, 0, "abcd") == [0, 1, 0, 1]
    check(made)


def test_a_release_of_blocks_that_are_all_held_again_releases_none():
    made = tree(["ab"])
    for depth in (0, 1):
        made.hold_again(0, block(made, "ab"), depth)
    release(made, 0, "ab", 2)
    assert holds(made, 0, "ab") == [1, 1]
    assert block(made, "ab").more_holds == {}


def test_one_column_holds_again_and_another_once():
    made = tree(["ab"], ["ab"])
    made.hold_again(0, block(made, "ab"), 1)
    release(made, 1, "ab")
    assert (holds(made, 0, "ab"), holds(made, 1, "ab")) == ([1, 2], [1, 0])


def test_further_holds_go_with_their_blocks_through_a_split_and_a_merge():
    made = tree(["abcdef"], ["abcdef"])
    for column, depth in ((0, 1), (0, 4), (0, 4), (1, 2)):
        made.hold_again(column, block(made, "abcdef"), depth)
    hold(made, 0, "abcx")
    assert (block(made, "abc").more_holds, block(made, "abcdef").more_holds) == (
        {0: {1: 1}, 1: {2: 1}},
        {0: {4: 2}},
    )
    release(mergeable(made), 0, "abcx")
    assert runs(made) == ["abcdef"]
    assert holds(made, 0, "abcdef") == [1, 2, 1, 1, 3, 1]
    assert holds(made, 1, "abcdef") == [1, 1, 2, 1, 1, 1]
    check(made)


# -- splits ------------------------------------------------------------------------------


def test_a_split_keeps_the_order_of_use_of_every_column():
    made = tree(["abcd", "xy", "uv"], ["uv", "abcd", "xy"], ["xy", "uv", "abcd"])
    before = [evicted(made, column) for column in range(3)]
    made.split(block(made, "abcd"), 2)
    assert [evicted(made, column) for column in range(3)] == before
    check_tree(made)


@pytest.mark.parametrize("held", ["", "a", "b", "c", "d", "ab", "bc", "cd", "ad", "abd", "abcd"])
def test_a_split_divides_what_a_column_holds(held: str):
    made = tree(["abcd"], ["uv"])
    for letter in held:
        made.hold_run(1, block(made, "abcd"), "abcd".index(letter), 1)
    hold(made, 1, "xy")
    before = holds(made, 1, "abcd"), evicted(made, 1)
    made.split(block(made, "abcd"), 2)
    assert (holds(made, 1, "abcd"), evicted(made, 1)) == before
    check_tree(made)


def test_a_split_gives_both_halves_the_uses():
    made = tree(["abcd"])
    made.unexpect(expect(made, 0, "abcd", use=5 << 20), 0)
    lower = block(made, "abcd")
    upper = made.split(lower, 2)
    upper.uses[0] += 1
    assert (upper.uses, lower.uses) == ({0: (5 << 20) + 1}, {0: 5 << 20})


def test_a_split_gives_both_halves_the_requests_that_expect_them():
    made = tree(["abcd"], columns=2)
    requests = [expect(made, 1, "abcd") for _ in range(2)]
    made.split(block(made, "abcd"), 2)
    check_tree(made)
    assert levels(made, "abcd") == [4, 4]
    for one in requests:
        made.unexpect(one, 1)
    assert levels(made, "abcd") == [4, 0]
    check(made)


@pytest.mark.parametrize(("stored", "expected"), [("ab", 2), ("cd", 2), ("b", 3)])
def test_a_half_that_was_stored_already_is_expected_no_more(stored: str, expected: int):
    made = tree(["abcd"], columns=2)
    expect(made, 1, "abcd")
    made.hold_run(1, block(made, "abcd"), "abcd".index(stored), len(stored))
    made.split(block(made, "abcd"), 2)
    assert made.expected_blocks[1] == expected
    check_tree(made)


# -- merges ------------------------------------------------------------------------------


def parted(*caches: list[str]) -> PrefixTree:
    """A tree in which column 0, which holds `abxy` last, keeps `ab` and `cd` apart for as
    long as it does."""
    made = tree(*caches)
    hold(made, 0, "abxy")
    assert "cd" in runs(made)
    return mergeable(made)


def test_a_merged_run_is_evicted_when_its_upper_half_would_have_been():
    made = parted(["abcd", "uv"], ["uv", "abcd"])
    made.touch(block(made, "uv"), 0)
    made.touch(block(made, "ab"), 0)
    release(made, 0, "abxy", 2)
    assert evicted(made, 0) == ["uv", "u", "abcd", "abc", "ab", "a"]
    assert evicted(made, 1) == ["uv", "u", "abcd", "abc", "ab", "a"]
    check(made)


def test_a_merged_run_with_a_hole_is_evicted_when_its_upper_half_would_have_been():
    made = parted(["abcd", "uv"])
    release(made, 0, "a")
    made.touch(block(made, "uv"), 0)
    made.touch(block(made, "ab"), 0)
    release(made, 0, "abxy", 2)
    assert runs(made) == ["abcd", "uv"]
    assert evicted(made, 0) == ["uv", "u", "abcd", "abc", "ab"]
    check(made)


@pytest.mark.parametrize("hole", ["a", "ab", "abc"])
def test_runs_with_holes_are_merged_too(hole: str):
    made = parted(["abcd"], ["abcd"])
    release(made, 0, hole)
    release(made, 1, hole)
    before = [holds(made, column, "abcd") for column in (0, 1)]
    release(made, 0, "abxy", 2)
    assert runs(made) == ["abcd"]
    assert [holds(made, column, "abcd") for column in (0, 1)] == before
    check(made)


def test_runs_that_different_columns_hold_stay_apart():
    made = parted(["abcd"], ["ab"])
    release(made, 0, "abxy", 2)
    assert runs(made) == ["ab", "cd"]


def test_runs_become_one_once_the_other_column_holds_the_rest():
    made = tree(["abcd"], ["ab"])
    hold(made, 1, "abcd", 2)
    assert runs(made) == ["abcd"]


@pytest.mark.parametrize("prompt", ["ab", "abcd"])
def test_runs_that_are_expected_stay_apart_until_they_are_not(prompt: str):
    made = parted(["abcd", "ab"], ["uv"])
    expected = expect(made, 1, prompt)
    release(made, 0, "abxy", 2)
    assert runs(made) == ["ab", "cd", "uv"]
    made.unexpect(expected, 1)
    assert runs(made) == ["abcd", "uv"]
    check(made)


def test_a_merge_keeps_the_later_uses_of_the_two():
    made = parted(["abcd"], ["abcd"])
    upper, lower = block(made, "ab"), block(made, "abcd")
    upper.uses = {0: 7 << 40, 1: 3 << 40, 2: 4 << 40}
    lower.uses = {0: 6 << 40, 1: 5 << 40, 3: 1 << 40}
    release(made, 0, "abxy", 2)
    assert block(made, "abcd").uses == {0: 7 << 40, 1: 5 << 40, 2: 4 << 40, 3: 1 << 40}


def test_a_merge_keeps_the_uses_of_the_upper_run_where_the_lower_has_none():
    made = parted(["abcd"])
    block(made, "ab").uses, block(made, "abcd").uses = {0: 7 << 40}, None
    release(made, 0, "abxy", 2)
    assert block(made, "abcd").uses == {0: 7 << 40}


# -- the order of use --------------------------------------------------------------------


def test_touching_a_prompt_lets_its_end_go_first():
    made = tree(["abcd", "abxy", "uv"])
    made.touch(block(made, "abcd"), 0)
    assert evicted(made, 0) == ["abxy", "abx", "uv", "u", "abcd", "abc", "ab", "a"]


def test_touching_what_another_column_holds_changes_nothing():
    made = tree(["uv", "ab"], ["uv", "abcd"])
    made.touch(block(made, "abcd"), 0)
    assert evicted(made, 0) == ["uv", "u", "ab", "a"]
    check_tree(made)


def test_touching_a_prompt_with_a_hole_makes_the_rest_of_it_recent():
    made = tree(["abcd", "uv"])
    release(made, 0, "abc")
    made.touch(block(made, "abcd"), 0)
    assert evicted(made, 0) == ["uv", "u", "abcd", "ab", "a"]


def test_a_block_that_comes_back_leaves_its_run_where_it_was():
    made = tree(["abcd", "uv"])
    release(made, 0, "ab")
    made.hold_run(0, block(made, "ab"), 1, 1)
    assert evicted(made, 0) == ["abcd", "abc", "ab", "a", "uv", "u"]


def test_what_has_no_block_left_is_in_no_order():
    made = tree(["ab", "abcd"], ["abcd"])
    release(made, 0, "abcd", 4)
    assert evicted(made, 0) == []
    check(made)
