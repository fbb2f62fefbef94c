"""The tree and residency against a naive cache, step by step: groups, media, several
hashes of a block, unknown parents, restarts, a full tree, compiled and in Python."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from compiled import IMPLEMENTATIONS, Implementation
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from naive_cache import (
    BLOCK,
    KINDS,
    WINDOW_BLOCKS,
    Block,
    LayerKey,
    NaiveCache,
    NaiveLayer,
    Prefix,
    hash_of,
)

from preble_plugin.core import Attention
from preble_plugin.core.block_keys import BlockHasher
from preble_plugin.core.events import CacheEvent, Clear, Remove, Store
from preble_plugin.core.hits import usable
from preble_plugin.core.pool import Pool
from preble_plugin.core.prefix_tree import Expectation, PrefixTree
from preble_plugin.core.residency import Residency
from preble_plugin.core.snapshot import capture, restore
from preble_plugin.core.tree_check import check_layers, check_merged, check_residency, check_tree
from preble_plugin.core.usage import first_use

HASHER = BlockHasher(BLOCK, b"seed")
FIRST_USE = first_use(0.0, 180.0)
UNBOUNDED = 1 << 30
POOL_BLOCKS = 1 << 20
MEDIA = ["GPU"] * 4 + ["CPU", "CPU", "DISK", "EXTERNAL"]


class World:
    """The residencies of some replicas in one tree, by one implementation."""

    def __init__(self, implementation: Implementation, replicas: int, max_blocks: int) -> None:
        self.implementation = implementation
        self.max_blocks = max_blocks
        self.expectations: dict[str, tuple[int, Expectation]] = {}
        self._begin(replicas)

    def _begin(self, replicas: int) -> None:
        self.tree = PrefixTree(self.max_blocks)
        self.pool = Pool(self.tree, POOL_BLOCKS)
        self.replicas = [Residency(self.tree, HASHER, self.pool) for _ in range(replicas)]

    def apply(self, which: int, event: CacheEvent) -> None:
        self.replicas[which].apply(event)

    def dispatch(self, which: int, name: str, prompt: Prefix) -> int:
        """Blocks that are expected of a request."""
        column = self.replicas[which].column
        keys = HASHER.prompt_keys(prompt)
        match = self.tree.match(keys, 1 << column)
        self.tree.grow(keys, match)
        if match.path:
            self.expectations[name] = column, self.tree.expect(match.path, column, FIRST_USE)
        return sum(blocks for _, blocks in self.tree.match(keys, 1 << column).levels)

    def end(self, name: str) -> None:
        column, expected = self.expectations.pop(name, (0, None))
        if expected is not None:
            self.tree.unexpect(expected, column)

    def end_all(self) -> None:
        for name in list(self.expectations):
            self.end(name)

    def restart(self) -> None:
        """All residencies through snapshots into a new tree."""
        taken = [capture(self.tree, one).encode() for one in self.replicas]
        self._begin(len(self.replicas))
        for one, snapshot in zip(self.replicas, taken, strict=True):
            restore(self.tree, one, snapshot)

    def through_a_snapshot(self, which: int) -> None:
        one = self.replicas[which]
        restore(self.tree, one, capture(self.tree, one).encode())

    def hits(self, prompt: Prefix) -> list[int]:
        mask = sum(1 << one.column for one in self.replicas)
        match = self.tree.match(HASHER.prompt_keys(prompt), mask)
        levels = {
            one.column: blocks
            for one in self.replicas
            for columns, blocks in match.levels
            if columns >> one.column & 1
        }
        limit = len(prompt) // BLOCK
        return [
            usable(one, match, levels.get(one.column, 0), limit).blocks for one in self.replicas
        ]

    def check(self) -> tuple[int, ...]:
        """Sound; in figures, which are the same by each implementation."""
        check_tree(self.tree)
        for one in self.replicas:
            check_residency(self.tree, one)
        check_layers(self.tree, self.pool.layers.values())
        held = (one.hash_count for one in self.replicas)
        return self.tree.nodes, self.tree.blocks, *self.tree.expected_blocks.values(), *held


class Fleet:
    """The same replicas naively, and in a world by each implementation."""

    def __init__(self, replicas: int, max_blocks: int = UNBOUNDED) -> None:
        self.bounded = max_blocks < UNBOUNDED
        self.pool: dict[LayerKey, NaiveLayer] = {}
        self.naive = [NaiveCache(self.pool) for _ in range(replicas)]
        self._worlds = [World(one, replicas, max_blocks) for one in IMPLEMENTATIONS.values()]

    def worlds(self) -> Iterator[World]:
        for world in self._worlds:
            world.implementation.use()
            yield world

    def store(
        self,
        which: int,
        key: LayerKey,
        blocks: list[Block],
        parent: Block | None,
        tokens: Prefix,
        told: bool = True,
    ) -> None:
        kind = KINDS[key[0]]
        window = WINDOW_BLOCKS * BLOCK + 1 if kind is Attention.SLIDING_WINDOW else None
        event = Store(
            [hash_of(block) for block in blocks],
            None if parent is None else hash_of(parent),
            list(tokens) if told else [],
            BLOCK if told else 0,
            group=key[0],
            medium=key[1],
            attention=kind,
            window_tokens=window,
        )
        for world in self.worlds():
            world.apply(which, event)
        self.naive[which].store(key, blocks, parent, told)

    def remove(self, which: int, key: LayerKey, blocks: list[Block]) -> None:
        event = Remove([hash_of(block) for block in blocks], *key)
        for world in self.worlds():
            world.apply(which, event)
        for block in blocks:
            self.naive[which].remove(key, block)

    def remove_some(self, which: int, choose: random.Random, most: int = 1) -> None:
        """Remove a block, or some in a row, from either end."""
        if held := list(self.naive[which].blocks()):
            key, (prefix, name) = choose.choice(held)
            row = [(prefix[:end], name) for end in range(len(prefix), 0, -BLOCK)]
            row = [one for one in row if (key, one) in held][: choose.randint(1, most)]
            self.remove(which, key, row if choose.random() < 0.5 else row[::-1])

    def clear(self, which: int) -> None:
        for world in self.worlds():
            world.apply(which, Clear())
        self.naive[which].clear()

    def check(self) -> None:
        figures = [world.check() for world in self.worlds()]
        assert figures.count(figures[0]) == len(figures), "implementations differ"

    def check_merged(self) -> None:
        """Nothing may be expected."""
        for world in self.worlds():
            check_merged(world.tree)

    def check_hits(self, prompt: Prefix) -> None:
        """Nothing may be expected."""
        facts = [naive.hit(prompt) for naive in self.naive]
        for world in self.worlds():
            found = world.hits(prompt)
            if self.bounded:
                assert all(map(int.__le__, found, facts)), "a hit that is none"
            else:
                assert found == facts

    def check_empty(self) -> None:
        for which in range(len(self.naive)):
            self.clear(which)
        for world in self.worlds():
            world.pool.close()
            world.check()
            assert (world.tree.nodes, world.tree.blocks) == (0, 0), "something was not freed"


seeds = st.integers(0, 2**32 - 1).map(random.Random)
"""Draws that hypothesis makes itself stay short: most prompts would have no block."""
replicas = st.integers(0, 2)


def drawn_prompt(choose: random.Random) -> Prefix:
    """One of few long prompts up to some token, and then on its own."""
    document = random.Random(choose.randrange(3)).choices(range(2), k=12)
    return (*document[: choose.randrange(13)], *choose.choices(range(2), k=choose.randrange(4)))


def drawn_name(choose: random.Random) -> int:
    """Which of an engine's hashes for a block."""
    return choose.choice([0, 0, 0, 1, 2])


def drawn_layer(choose: random.Random) -> LayerKey:
    return choose.choice([0, 0, 0, 0, 0, 1, 2, 3]), choose.choice(MEDIA)


class ResidencyMachine(RuleBasedStateMachine):
    @initialize(max_blocks=st.sampled_from([UNBOUNDED, UNBOUNDED, UNBOUNDED, 8, 20]))
    def start(self, max_blocks: int) -> None:
        self.fleet = Fleet(3, max_blocks)
        self.dispatched: list[str] = []
        self.requests = 0

    @rule(which=replicas, choose=seeds)
    def events(self, which: int, choose: random.Random) -> None:
        """Some of what an engine publishes, and now and then what none should."""
        for _ in range(choose.randint(1, 10)):
            kind = choose.random()
            if kind < 0.6:
                self.store(which, choose)
            elif kind < 0.9:
                self.fleet.remove_some(which, choose, choose.randint(1, 7))
            elif kind < 0.98:
                self.remove_any(which, choose)
            else:
                self.store_in_a_circle(which, choose)
            self.fleet.check()

    def store(self, which: int, choose: random.Random) -> None:
        """Blocks of a prompt in a layer, below a parent that may be unknown. All have
        the same number of hash, or each its own; sparse groups list only some."""
        prompt, key = drawn_prompt(choose), drawn_layer(choose)
        whole = len(prompt) // BLOCK
        first = choose.choice([0, choose.randrange(whole + 1), self.fleet.naive[which].hit(prompt)])
        name, mixed = drawn_name(choose), choose.random() < 0.3
        blocks = [
            (prompt[: (number + 1) * BLOCK], drawn_name(choose) if mixed else name)
            for number in range(first, whole)
        ]
        if KINDS[key[0]] is not Attention.FULL:
            blocks = [one for one in blocks if choose.random() < 0.6]
        above = (prompt[: first * BLOCK], drawn_name(choose)) if first else None
        if blocks:
            told = key[1] == "GPU" or choose.random() < 0.7
            tokens = prompt[first * BLOCK : whole * BLOCK]
            self.fleet.store(which, key, blocks, above, tokens, told)

    def store_in_a_circle(self, which: int, choose: random.Random) -> None:
        """Two stores, or one, that wait for each other's blocks."""
        prompt = choose.choices(range(2), k=2 * BLOCK)
        one, other = (tuple(prompt[:BLOCK]), 7), (tuple(prompt), 7)
        if choose.random() < 0.5:
            self.fleet.store(which, (0, "GPU"), [one], one, one[0])
        else:
            self.fleet.store(which, (0, "GPU"), [one], other, one[0])
            self.fleet.store(which, (0, "GPU"), [other], one, other[0][BLOCK:])

    def remove_any(self, which: int, choose: random.Random) -> None:
        """A block that the replica may not have."""
        prompt = drawn_prompt(choose)
        if whole := len(prompt) // BLOCK:
            block = prompt[: whole * BLOCK], drawn_name(choose)
            self.fleet.remove(which, drawn_layer(choose), [block])

    @rule(which=replicas)
    def clear(self, which: int) -> None:
        self.fleet.clear(which)

    @rule(which=replicas, choose=seeds)
    def dispatch(self, which: int, choose: random.Random) -> None:
        prompt = drawn_prompt(choose)
        name = f"r{self.requests}"
        self.requests += 1
        for world in self.fleet.worlds():
            found = world.dispatch(which, name, prompt)
            assert self.fleet.bounded or found == len(prompt) // BLOCK, "not expected"
        self.dispatched.append(name)
        if len(self.dispatched) > 5:
            self.end(self.dispatched[0])

    @rule(choose=seeds)
    def end_one(self, choose: random.Random) -> None:
        if self.dispatched:
            self.end(choose.choice(self.dispatched))

    def end(self, name: str) -> None:
        self.dispatched.remove(name)
        for world in self.fleet.worlds():
            world.end(name)

    def end_all(self) -> None:
        for name in list(self.dispatched):
            self.end(name)

    @rule(which=replicas)
    def through_a_snapshot(self, which: int) -> None:
        if not self.fleet.naive[which].waiting:
            for world in self.fleet.worlds():
                world.through_a_snapshot(which)

    @rule()
    def restart(self) -> None:
        if not any(naive.waiting for naive in self.fleet.naive):
            self.end_all()
            for world in self.fleet.worlds():
                world.restart()
            self.fleet.pool.clear()

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "fleet"):
            self.fleet.check()

    @rule(choose=seeds)
    def same_hits(self, choose: random.Random) -> None:
        self.end_all()
        self.fleet.check_merged()
        for _ in range(8):
            self.fleet.check_hits(drawn_prompt(choose))

    def teardown(self) -> None:
        if hasattr(self, "fleet"):
            self.end_all()
            self.fleet.check_empty()


TestResidencyModel = ResidencyMachine.TestCase
TestResidencyModel.settings = settings(
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def _fastest() -> Iterator[None]:
    """Whatever a test used, those after it go by the fastest again."""
    yield
    list(IMPLEMENTATIONS.values())[-1].use()


@pytest.mark.parametrize("seed", range(2))
def test_a_long_random_life_agrees_with_the_naive_cache(seed: int) -> None:
    choose = random.Random(seed)
    fleet = Fleet(3)
    documents = [tuple(choose.choices(range(3), k=40)) for _ in range(6)]
    seen: Counter[int] = Counter()
    for step in range(1500):
        which = choose.randrange(3)
        naive = fleet.naive[which]
        document = choose.choice(documents)
        prompt = document[: choose.randrange(41)] + tuple(choose.choices(range(2), k=6))
        whole = len(prompt) // BLOCK
        action = choose.random()
        if action < 0.5:
            first = naive.hit(prompt) if action < 0.45 else 0
            blocks = [(prompt[: (one + 1) * BLOCK], 0) for one in range(first, whole)]
            if blocks:
                parent = (prompt[: first * BLOCK], 0) if first else None
                tokens = prompt[first * BLOCK : whole * BLOCK]
                fleet.store(which, (0, "GPU"), blocks, parent, tokens)
        elif action < 0.97:
            for _ in range(6):
                fleet.remove_some(which, choose, 20 if choose.random() < 0.1 else 1)
        else:
            fleet.clear(which)
        if step % 50 == 0:
            fleet.check()
            fleet.check_merged()
        fleet.check_hits(prompt)
        seen.update(one.hit(prompt) for one in fleet.naive)
    assert len(seen) > 15, "hits of few lengths only"
    fleet.check()
    fleet.check_empty()
