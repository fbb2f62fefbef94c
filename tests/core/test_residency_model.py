"""The tree and residency against a naive dict of blocks, step by step."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from preble_plugin.core.block_keys import BlockHasher
from preble_plugin.core.events import Clear, Remove, Store
from preble_plugin.core.hits import usable
from preble_plugin.core.prefix_tree import Expectation, PrefixTree
from preble_plugin.core.residency import Residency
from preble_plugin.core.snapshot import capture, restore
from preble_plugin.core.tree_check import check_residency, check_tree

BLOCK = 2


NAMES = 3
"""Hashes that an engine may give one block."""


class NaiveCache:
    """A cache as a counter of whole prefixes, by the hash they are named by."""

    def __init__(self) -> None:
        self.copies: Counter[tuple[tuple[int, ...], int]] = Counter()

    def holds(self, prefix: tuple[int, ...]) -> bool:
        return any(self.copies[prefix, name] for name in range(NAMES))

    def hit(self, prompt: tuple[int, ...]) -> int:
        blocks = 0
        while (blocks + 1) * BLOCK <= len(prompt) and self.holds(prompt[: (blocks + 1) * BLOCK]):
            blocks += 1
        return blocks


def hash_of(prefix: tuple[int, ...], name: int = 0) -> int:
    return hash((prefix, name)) & 0x7FFFFFFFFFFFFFFF


class Pair:
    """A replica's residency beside its naive twin."""

    def __init__(self, tree: PrefixTree, hasher: BlockHasher) -> None:
        self.real = Residency(tree, hasher)
        self.naive = NaiveCache()

    def store(self, prompt: tuple[int, ...], first: int, name: int = 0) -> None:
        """Store the blocks of `prompt` from block `first` on, if the parent is there."""
        blocks = len(prompt) // BLOCK
        ends = range((first + 1) * BLOCK, blocks * BLOCK + 1, BLOCK)
        if not ends:
            return
        above = prompt[: first * BLOCK]
        parent = next((one for one in range(NAMES) if self.naive.copies[above, one]), None)
        if above and parent is None:
            return
        self.real.apply(
            Store(
                [hash_of(prompt[:end], name) for end in ends],
                hash_of(above, parent) if above and parent is not None else None,
                list(prompt[first * BLOCK : blocks * BLOCK]),
                BLOCK,
            )
        )
        for end in ends:
            self.naive.copies[prompt[:end], name] += 1

    def remove(self, choose: random.Random, most: int = 1) -> None:
        """Remove a block, or some in a row, from either end."""
        held = sorted(prefix for prefix, count in self.naive.copies.items() if count)
        if not held:
            return
        prefix, name = choose.choice(held)
        row = [
            prefix[:end]
            for end in range(len(prefix), 0, -BLOCK)
            if self.naive.copies[prefix[:end], name]
        ][: choose.randint(1, most)]
        if choose.random() < 0.5:
            row.reverse()
        self.real.apply(Remove([hash_of(one, name) for one in row]))
        for one in row:
            self.naive.copies[one, name] -= 1

    def clear(self) -> None:
        self.real.apply(Clear())
        self.naive.copies.clear()


def hits(tree: PrefixTree, hasher: BlockHasher, pairs: list[Pair], prompt: tuple[int, ...]):
    mask = sum(1 << pair.real.column for pair in pairs)
    match = tree.match(hasher.prompt_keys(prompt), mask)
    levels = dict.fromkeys((pair.real.column for pair in pairs), 0)
    for columns, blocks in match.levels:
        for column in levels:
            if columns >> column & 1:
                levels[column] = blocks
    limit = len(prompt) // BLOCK
    return [usable(pair.real, match, levels[pair.real.column], limit).blocks for pair in pairs]


prompts = st.lists(st.integers(0, 2), min_size=0, max_size=14).map(tuple)


class ResidencyMachine(RuleBasedStateMachine):
    @initialize(replicas=st.integers(1, 4))
    def start(self, replicas: int) -> None:
        self.tree = PrefixTree()
        self.hasher = BlockHasher(BLOCK, b"seed")
        self.pairs = [Pair(self.tree, self.hasher) for _ in range(replicas)]
        self.expectations: dict[str, tuple[int, Expectation]] = {}
        self.requests = 0

    @rule(
        which=st.integers(0, 3),
        prompt=prompts,
        first=st.integers(0, 6),
        name=st.sampled_from([0, 0, 0, 1, 2]),
    )
    def store(self, which: int, prompt: tuple[int, ...], first: int, name: int) -> None:
        self.pairs[which % len(self.pairs)].store(prompt, first, name)

    @rule(
        which=st.integers(0, 3),
        choose=st.randoms(use_true_random=False),
        most=st.integers(1, 7),
    )
    def remove(self, which: int, choose: random.Random, most: int) -> None:
        self.pairs[which % len(self.pairs)].remove(choose, most)

    @rule(which=st.integers(0, 3))
    def clear(self, which: int) -> None:
        self.pairs[which % len(self.pairs)].clear()

    @rule(which=st.integers(0, 3), prompt=prompts)
    def dispatch(self, which: int, prompt: tuple[int, ...]) -> None:
        column = self.pairs[which % len(self.pairs)].real.column
        keys = self.hasher.prompt_keys(prompt)
        match = self.tree.match(keys, 1 << column)
        self.tree.grow(keys, match)
        if match.path:
            name = f"r{self.requests}"
            self.requests += 1
            self.expectations[name] = (column, self.tree.expect(match.path, column, 0))
            (found,) = [b for mask, b in self.tree.match(keys, 1 << column).levels if mask] or [0]
            assert found == len(prompt) // BLOCK, "what was dispatched is not expected"
            if len(self.expectations) > 5:
                self.settle(next(iter(self.expectations)))

    @rule(choose=st.randoms(use_true_random=False))
    def end_one(self, choose: random.Random) -> None:
        if self.expectations:
            self.settle(choose.choice(sorted(self.expectations)))

    def settle(self, name: str) -> None:
        column, expected = self.expectations.pop(name)
        self.tree.unexpect(expected, column)

    @rule(which=st.integers(0, 3))
    def through_a_snapshot(self, which: int) -> None:
        pair = self.pairs[which % len(self.pairs)]
        restore(self.tree, pair.real, capture(self.tree, pair.real).encode())

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "tree"):
            check_tree(self.tree)
            for pair in self.pairs:
                check_residency(self.tree, pair.real)

    @rule(prompt=prompts)
    def same_hits(self, prompt: tuple[int, ...]) -> None:
        for name in list(self.expectations):
            self.settle(name)
        expected = [pair.naive.hit(prompt) for pair in self.pairs]
        assert hits(self.tree, self.hasher, self.pairs, prompt) == expected

    def teardown(self) -> None:
        if hasattr(self, "tree"):
            for name in list(self.expectations):
                self.settle(name)
            for pair in self.pairs:
                pair.clear()
            check_tree(self.tree)
            assert (self.tree.nodes, self.tree.blocks) == (0, 0), "something was not freed"


TestResidencyModel = ResidencyMachine.TestCase
TestResidencyModel.settings = settings(
    max_examples=300,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.parametrize("seed", range(3))
def test_a_long_random_life_agrees_with_the_naive_cache(seed: int) -> None:
    choose = random.Random(seed)
    tree, hasher = PrefixTree(), BlockHasher(BLOCK, b"seed")
    pairs = [Pair(tree, hasher) for _ in range(3)]
    documents = [tuple(choose.choices(range(3), k=40)) for _ in range(6)]
    for step in range(4000):
        pair = choose.choice(pairs)
        document = choose.choice(documents)
        prompt = document[: choose.randrange(41)] + tuple(choose.choices(range(2), k=6))
        action = choose.random()
        if action < 0.45:
            pair.store(prompt, pair.naive.hit(prompt))
        elif action < 0.5:
            pair.store(prompt, 0)
        elif action < 0.97:
            for _ in range(6):
                pair.remove(choose, 20 if choose.random() < 0.1 else 1)
        else:
            pair.clear()
        if step % 50 == 0:
            check_tree(tree)
        assert hits(tree, hasher, pairs, prompt) == [p.naive.hit(prompt) for p in pairs]
    for pair in pairs:
        check_residency(tree, pair.real)
        pair.clear()
    assert (tree.nodes, tree.blocks) == (0, 0)
