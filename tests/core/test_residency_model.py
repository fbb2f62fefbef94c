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
from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.residency import Residency
from preble_plugin.core.snapshot import capture, restore
from preble_plugin.core.tree_check import check_residency, check_tree

BLOCK = 2


class NaiveCache:
    """A cache as a counter of whole prefixes: what a block hash stands for."""

    def __init__(self) -> None:
        self.copies: Counter[tuple[int, ...]] = Counter()

    def hit(self, prompt: tuple[int, ...]) -> int:
        blocks = 0
        while (blocks + 1) * BLOCK <= len(prompt) and self.copies[
            prompt[: (blocks + 1) * BLOCK]
        ] > 0:
            blocks += 1
        return blocks


def hash_of(prefix: tuple[int, ...]) -> int:
    return hash(prefix) & 0x7FFFFFFFFFFFFFFF


class Pair:
    """A replica's residency beside its naive twin."""

    def __init__(self, tree: PrefixTree, hasher: BlockHasher) -> None:
        self.real = Residency(tree, hasher, 1 << 30)
        self.naive = NaiveCache()

    def store(self, prompt: tuple[int, ...], first: int) -> None:
        """Store the blocks of `prompt` from block `first` on, if the parent is there."""
        blocks = len(prompt) // BLOCK
        ends = range((first + 1) * BLOCK, blocks * BLOCK + 1, BLOCK)
        if not ends:
            return
        parent = prompt[: first * BLOCK]
        if parent and not self.naive.copies[parent]:
            return
        self.real.apply(
            Store(
                [hash_of(prompt[:end]) for end in ends],
                hash_of(parent) if parent else None,
                list(prompt[first * BLOCK : blocks * BLOCK]),
                BLOCK,
            )
        )
        for end in ends:
            self.naive.copies[prompt[:end]] += 1

    def remove(self, choose: random.Random) -> None:
        held = sorted(prefix for prefix, count in self.naive.copies.items() if count)
        if held:
            prefix = choose.choice(held)
            self.real.apply(Remove([hash_of(prefix)]))
            self.naive.copies[prefix] -= 1

    def clear(self) -> None:
        self.real.apply(Clear())
        self.naive.copies.clear()


def hits(tree: PrefixTree, hasher: BlockHasher, pairs: list[Pair], prompt: tuple[int, ...]):
    mask = sum(1 << pair.real.column for pair in pairs)
    found = dict.fromkeys((pair.real.column for pair in pairs), 0)
    for columns, blocks in tree.match(hasher.prompt_keys(prompt), mask).levels:
        for column in found:
            if columns >> column & 1:
                found[column] = blocks
    return [found[pair.real.column] for pair in pairs]


prompts = st.lists(st.integers(0, 2), min_size=0, max_size=14).map(tuple)


class ResidencyMachine(RuleBasedStateMachine):
    @initialize(replicas=st.integers(1, 4))
    def start(self, replicas: int) -> None:
        self.tree = PrefixTree()
        self.hasher = BlockHasher(BLOCK, b"seed")
        self.pairs = [Pair(self.tree, self.hasher) for _ in range(replicas)]
        self.expectations: dict[str, tuple[int, object]] = {}
        self.requests = 0

    @rule(which=st.integers(0, 3), prompt=prompts, first=st.integers(0, 6))
    def store(self, which: int, prompt: tuple[int, ...], first: int) -> None:
        self.pairs[which % len(self.pairs)].store(prompt, first)

    @rule(which=st.integers(0, 3), choose=st.randoms(use_true_random=False))
    def remove(self, which: int, choose: random.Random) -> None:
        self.pairs[which % len(self.pairs)].remove(choose)

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
            self.tree.expect(match.path, column, name)
            self.expectations[name] = (column, match.path[-1])
            (found,) = [b for mask, b in self.tree.match(keys, 1 << column).levels if mask] or [0]
            assert found == len(prompt) // BLOCK, "what was dispatched is not expected"
            if len(self.expectations) > 5:
                self.settle(next(iter(self.expectations)))

    @rule(choose=st.randoms(use_true_random=False))
    def end_one(self, choose: random.Random) -> None:
        if self.expectations:
            self.settle(choose.choice(sorted(self.expectations)))

    def settle(self, name: str) -> None:
        column, leaf = self.expectations.pop(name)
        self.tree.unexpect(leaf, column, name)

    @rule(which=st.integers(0, 3))
    def through_a_snapshot(self, which: int) -> None:
        pair = self.pairs[which % len(self.pairs)]
        restore(pair.real, capture(self.tree, pair.real).encode())

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
                pair.remove(choose)
        else:
            pair.clear()
        if step % 50 == 0:
            check_tree(tree)
        assert hits(tree, hasher, pairs, prompt) == [p.naive.hit(prompt) for p in pairs]
    for pair in pairs:
        check_residency(tree, pair.real)
        pair.clear()
    assert (tree.nodes, tree.blocks) == (0, 0)
