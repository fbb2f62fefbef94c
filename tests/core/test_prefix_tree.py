from __future__ import annotations

import random
import sys
from collections import Counter

import pytest
from tree_builders import (
    block,
    check,
    evicted,
    expect,
    hold,
    keys,
    levels,
    prompt_of,
    random_prompt,
    release,
    runs,
    tree,
)

from preble_plugin.core import held_tree, tree_check, tree_shape
from preble_plugin.core.node import Node
from preble_plugin.core.prefix_tree import Expectation, PrefixTree
from preble_plugin.core.tree_check import check_merged, check_tree

# -- walking -----------------------------------------------------------------------------


def test_each_column_holds_a_prompt_up_to_its_own_end():
    made = tree(["abcdef"], ["abcxyz"], ["ab"], ["uv"])
    assert levels(made, "abcdef") == [6, 3, 2, 0]


@pytest.mark.parametrize(("hole", "level"), [("a", 0), ("ab", 1), ("abcd", 3), ("abcdef", 5)])
def test_a_column_holds_a_prompt_up_to_its_first_hole(hole: str, level: int):
    made = tree(["abcdef", "abcxyz"], ["abcdef"])
    release(made, 0, hole)
    assert levels(made, "abcdef") == [level, 6]


def test_a_hole_behind_the_end_of_the_prompt_does_not_count():
    made = tree(["abcdef"])
    release(made, 0, "abcde")
    assert levels(made, "abcd") == [4]


def test_a_prompt_that_parts_within_a_run_is_matched_up_to_there():
    made = tree(["abcdef"])
    match = made.match(keys("abcxyz"), 1)
    assert (match.blocks, match.in_last, match.levels) == (3, 3, [(1, 3)])


def test_columns_that_are_not_followed_are_not_in_the_levels():
    made = tree(["abcd"], ["abcd"])
    assert made.match(keys("abcd"), 0b10).levels == [(0b10, 4)]


def test_a_match_says_whether_there_are_columns_beside_those_followed():
    made = tree(["abcd"], ["abcd"])
    assert [made.match(keys("abcd"), mask).layered for mask in (0b11, 0b01)] == [False, True]


def test_a_match_tells_the_blocks_that_a_column_holds_and_those_it_expects():
    made = tree(["abcdef", "abcxyz"], ["abc"])
    release(made, 1, "ab")
    expect(made, 1, "abcd")
    match = made.match(keys("abcdef"), 0b11)
    assert (match.bitmap(1, expected=False), match.bitmap(1, expected=True)) == (0b101, 0b1111)
    assert match.touched() == 0b11


# -- growing -----------------------------------------------------------------------------


def grown(made: PrefixTree, prompt: str) -> str:
    """The prompt of the path that was made for `prompt`."""
    match = made.match(keys(prompt), 1)
    leaf = made.grow(keys(prompt), match)
    assert leaf is (match.path[-1] if match.path else made.root)
    assert match.blocks == leaf.depth + leaf.size
    assert match.in_last == 0
    return prompt[: match.blocks]


@pytest.mark.parametrize("prompt", ["abcd", "ab", "abcdef", "abxy", "xy"])
def test_a_path_ends_at_the_last_block_of_the_prompt(prompt: str):
    assert grown(tree(["abcd"]), prompt) == prompt


@pytest.mark.parametrize(
    ("prompt", "path"),
    [("abcd", "abcd"), ("ab", "ab"), ("abcde", "abcde"), ("abcdef", "abcd"), ("xy", "")],
)
def test_a_path_in_a_full_tree_ends_where_the_prompt_was_matched(prompt: str, path: str):
    made = tree(["abcd"], max_blocks=5)
    assert grown(made, prompt) == path
    assert made.blocks <= 5


def test_a_path_in_a_full_tree_ends_with_the_blocks_of_the_prompt_in_a_run():
    made = tree(["abcd"], max_blocks=4)
    assert grown(made, "abxy") == "ab"
    assert runs(made) == ["ab", "cd"]


# -- expecting ---------------------------------------------------------------------------


def test_what_a_request_will_store_counts_as_held():
    made = tree(["ab"], ["abcd"])
    expect(made, 0, "abcd")
    assert levels(made, "abcd") == [4, 4]
    assert made.expected_blocks == {0: 2, 1: 0}
    check_tree(made)


def test_a_request_uses_each_run_of_its_prompt():
    made = tree(["ab"], ["abcd"])
    expect(made, 0, "abcd", use=3 << 20)
    assert (block(made, "ab").uses, block(made, "abcd").uses) == ({0: 3 << 20}, {0: 3 << 20})


def test_what_a_request_finds_becomes_the_most_recently_used():
    made = tree(["abcd", "uv"])
    expect(made, 0, "abcd")
    assert evicted(made, 0) == ["uv", "u", "abcd", "abc", "ab", "a"]


def test_what_was_expected_and_never_stored_is_freed_with_the_request():
    made = tree(["ab"])
    expected = expect(made, 0, "abcd")
    made.unexpect(expected, 0)
    assert (runs(made), made.expected_blocks) == (["ab"], {0: 0})
    check(made)


def test_what_two_requests_expect_is_expected_until_both_end():
    made = tree([])
    first, second = expect(made, 0, "abcd"), expect(made, 0, "abxy")
    made.unexpect(first, 0)
    assert levels(made, "abcd") == [2]
    assert levels(made, "abxy") == [4]
    made.unexpect(second, 0)
    assert runs(made) == []


def test_what_a_request_stores_is_expected_no_more():
    made = tree([])
    expected = expect(made, 0, "abcd")
    hold(made, 0, "abcd")
    assert made.expected_blocks == {0: 0}
    made.unexpect(expected, 0)
    assert levels(made, "abcd") == [4]
    check(made)


def test_a_run_that_is_stored_in_part_is_expected_for_the_rest():
    made = tree([])
    expect(made, 0, "abcd")
    hold(made, 0, "ab")
    assert (made.expected_blocks, levels(made, "abcd")) == ({0: 2}, [4])
    release(made, 0, "ab")
    assert (made.expected_blocks, levels(made, "abcd")) == ({0: 3}, [4])
    check_tree(made)


def test_a_request_that_ends_leaves_what_later_ones_expect():
    made = tree([])
    first = expect(made, 0, "abcd")
    hold(made, 0, "abcd")
    release(made, 0, "abcd", 4)
    second = expect(made, 0, "abcd")
    made.unexpect(first, 0)
    assert levels(made, "abcd") == [4]
    made.unexpect(second, 0)
    assert runs(made) == []


def test_a_request_that_ends_leaves_what_later_ones_expect_of_the_same_run():
    made = tree([])
    first = expect(made, 0, "abcd")
    hold(made, 0, "abcd")
    release(made, 0, "abcd", 2)
    expect(made, 0, "abcd")
    made.unexpect(first, 0)
    assert (levels(made, "abcd"), made.expected_blocks) == ([4], {0: 2})


def test_a_later_request_that_ends_first_leaves_nothing_of_what_was_stored():
    made = tree([])
    first = expect(made, 0, "abcd")
    hold(made, 0, "abcd")
    release(made, 0, "abcd", 2)
    second = expect(made, 0, "abcd")
    made.unexpect(second, 0)
    assert (levels(made, "abcd"), made.expected_blocks) == ([2], {0: 0})
    made.unexpect(first, 0)
    check(made)


def test_a_request_whose_blocks_were_evicted_and_freed_ends_in_peace():
    made = tree(["uv"])
    expected = expect(made, 0, "abcd")
    hold(made, 0, "abcd")
    release(made, 0, "abcd", 4)
    made.unexpect(expected, 0)
    assert runs(made) == ["uv"]
    check(made)


def test_where_a_request_ended_within_a_run_the_next_may_end_too():
    made = tree(["abcdef"])
    expected = expect(made, 0, "abc")
    assert runs(made) == ["abc", "def"]
    made.unexpect(expected, 0)
    assert runs(made) == ["abc", "def"]
    check(made)


def test_a_path_has_no_node_that_a_split_has_merged():
    made = tree(["abcdef"])
    for prompt in ("abx", "abcdy"):
        match = made.match(keys(prompt), 1)
        made.grow(keys(prompt), match)
        assert [node.forward for node in match.path] == [None, None]
        made.unexpect(made.expect(match.path, 0, 1 << 20), 0)
    check(made)


def test_a_request_is_expected_through_splits_by_others():
    made = tree([], ["uv"])
    expected = expect(made, 0, "abcdef")
    others = [expect(made, 1, prompt) for prompt in ("abx", "abcdy", "a")]
    assert levels(made, "abcdef")[0] == 6
    made.unexpect(expected, 0)
    assert levels(made, "abcdef")[0] == 0
    for other in others:
        made.unexpect(other, 1)
    assert runs(made) == ["uv"]


# -- a life ------------------------------------------------------------------------------


class Life:
    """A random life of a tree beside a count of the blocks that each column holds. A
    block is named by the prompt that it ends."""

    def __init__(self, seed: int, columns: int, max_blocks: int) -> None:
        self.choose = random.Random(seed)
        self.tree = tree(columns=columns, max_blocks=max_blocks)
        self.held: dict[int, Counter[str]] = {column: Counter() for column in range(columns)}
        self.in_flight: list[tuple[int, Expectation]] = []

    def step(self) -> None:
        actions = [self.hold, self.hold, self.hold_again, self.release, self.release]
        actions += [self.place, self.end, self.end_all, self.clear, self.leave]
        weights = [20, 20, 8, 30, 15, 15, 10, 4, 1, 1]
        column = self.choose.choice(sorted(self.held))
        self.choose.choices(actions, weights)[0](column)

    def matched(self, prompt: str) -> int:
        return self.tree.match(keys(prompt), 0).blocks

    def hold(self, column: int) -> None:
        prompt = random_prompt(self.choose)
        first = self.choose.randint(0, self.matched(prompt)) if self.choose.random() < 0.3 else 0
        fit = min(len(prompt), self.matched(prompt) + self.tree.room)
        held = self.held[column]
        _, blocks, before = self.tree.hold(
            column, block(self.tree, prompt[:first]), first, keys(prompt[first:])
        )
        stored = [prompt[: first + number + 1] for number in range(blocks)]
        # More than fit where a split frees what nobody holds.
        assert fit <= first + blocks <= len(prompt)
        assert first + blocks == len(prompt) or not self.tree.room
        assert before == sum(1 << n for n, one in enumerate(stored) if held[one])
        for one in stored:
            held[one] = max(held[one], 1)

    def hold_again(self, column: int) -> None:
        there = sorted(one for one, count in self.held[column].items() if count)
        if there:
            prompt = self.choose.choice(there)
            self.tree.hold_again(column, block(self.tree, prompt), len(prompt) - 1)
            self.held[column][prompt] += 1

    def release(self, column: int) -> None:
        held = self.held[column]
        there = sorted(one for one, count in held.items() if count)
        if there:
            prompt = self.choose.choice(there)
            row = [prompt]
            while held[row[-1][:-1]] and self.choose.random() < 0.7:
                row.append(row[-1][:-1])
            release(self.tree, column, prompt, len(row))
            held.subtract(row)

    def place(self, column: int) -> None:
        prompt = random_prompt(self.choose)
        match = self.tree.match(keys(prompt), 0)
        fit = len(prompt) if len(prompt) - match.blocks <= self.tree.room else match.blocks
        self.tree.grow(keys(prompt), match)
        assert match.blocks in (fit, len(prompt))
        fit = match.blocks
        if fit:
            self.in_flight.append((column, self.tree.expect(match.path, column, 1 << 20)))
            assert levels(self.tree, prompt[:fit])[column] == fit

    def end(self, column: int) -> None:
        if self.in_flight:
            number = self.choose.randrange(len(self.in_flight))
            self.unexpect(*self.in_flight.pop(number))

    def end_all(self, column: int) -> None:
        while self.in_flight:
            self.end(column)

    def unexpect(self, column: int, expected: Expectation) -> None:
        self.tree.unexpect(expected, column)

    def clear(self, column: int) -> None:
        self.tree.clear(column)
        self.held[column].clear()

    def leave(self, column: int) -> None:
        """The column is removed, and given to another."""
        for one in [one for one in self.in_flight if one[0] == column]:
            self.in_flight.remove(one)
            self.unexpect(*one)
        self.tree.remove_column(column)
        assert self.tree.add_column() == column
        self.held[column].clear()

    def check(self) -> None:
        check_tree(self.tree)
        for column, held in self.held.items():
            there = {one for one, count in held.items() if count}
            assert set(evicted(self.tree, column)) == there
            for one in there:
                node = block(self.tree, one)
                assert self.tree.holds(column, node, len(one) - 1) == held[one]
        if not self.in_flight:
            check_merged(self.tree)
            assert self.tree.expected_blocks == dict.fromkeys(self.held, 0)
            prompt = random_prompt(self.choose)
            assert levels(self.tree, prompt) == [self.hit(one, prompt) for one in self.held]

    def hit(self, column: int, prompt: str) -> int:
        held = self.held[column]
        return next((n for n in range(len(prompt)) if not held[prompt[: n + 1]]), len(prompt))


@pytest.mark.parametrize("max_blocks", [sys.maxsize, 25, 4])
@pytest.mark.parametrize("longest", [4096, 3])
@pytest.mark.parametrize("columns", [1, 3])
def test_a_random_life_leaves_the_tree_sound(columns, longest, max_blocks, monkeypatch):
    for module in (tree_shape, held_tree, tree_check):
        monkeypatch.setattr(module, "LONGEST_EDGE", longest)
    for seed in range(6):
        life = Life(seed, columns, max_blocks)
        for _ in range(150):
            life.step()
            life.check()
        life.end_all(0)
        for column in range(columns):
            life.clear(column)
        assert (life.tree.nodes, life.tree.blocks) == (0, 0)


def shuffled(choose: random.Random) -> PrefixTree:
    """Columns that hold parts of two prompts, used in any order."""
    made = tree(["abcdefgh", "uv"], ["uv", "abcdef"], ["abcdefgh", "abxy"])
    for column in range(3):
        for prompt in choose.sample(evicted(made, column), 3):
            release(made, column, prompt)
        for node in choose.sample(list(made.held[column]), len(made.held[column])):
            made.held[column].use(node)
    return made


def blocks_of(node: Node) -> set[str]:
    return {prompt_of(node)[: node.depth + number + 1] for number in range(node.size)}


def test_a_split_changes_no_order_of_use_and_a_merge_moves_the_lower_run_alone():
    merges = 0
    for seed in range(40):
        choose = random.Random(seed)
        made = shuffled(choose)
        lower = choose.choice([node for node in made.walk() if node.size > 1])
        before = [evicted(made, column) for column in range(3)]
        nodes = made.nodes
        upper = made.split(lower, choose.randint(1, lower.size - 1))
        check_tree(made)
        if made.nodes != nodes + 1:
            continue  # a half nobody needed, or a neighbour that is merged
        assert [evicted(made, column) for column in range(3)] == before

        expected = []
        above, below = blocks_of(upper), blocks_of(lower)
        for column in range(3):
            for node in choose.sample(list(made.held[column]), len(made.held[column])):
                made.held[column].use(node)
            order = evicted(made, column)
            moved = [one for one in order if one in below]
            rest = [one for one in order if one not in below]
            place = next((number for number, one in enumerate(rest) if one in above), None)
            expected.append(order if place is None else rest[:place] + moved + rest[place:])
        upper.parted = False
        made._tidy(upper)
        check(made)
        if upper.forward is lower:
            merges += 1
            assert [evicted(made, column) for column in range(3)] == expected
    assert merges > 10
