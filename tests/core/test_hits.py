"""The usable hit of a replica with several attention groups and media, by its definition."""

from __future__ import annotations

import random

import pytest
from builders import BLOCK, hashes, prompt, scheduler, store, view

from preble_plugin.core import Attention, Remove, Scheduler

TOKENS = prompt(1, 24)
CREDITS = {"GPU": 1.0, "CPU": 0.75, "CPU_PINNED": 0.75, "DISK": 0.25}


class Cache:
    """A replica with groups of layers, and the blocks that each has in each medium."""

    def __init__(self, groups: dict[int, tuple[Attention, int]]) -> None:
        self.made: Scheduler = scheduler(1)
        self.groups = groups
        self.held: dict[tuple[int, str], set[int]] = {}

    def store(self, group: int, medium: str, first: int, last: int) -> None:
        attention, window = self.groups[group]
        self.made.apply(
            0,
            [
                store(
                    TOKENS[: last * BLOCK],
                    first,
                    group=group,
                    medium=medium,
                    attention=attention,
                    window_tokens=window * BLOCK or None,
                )
            ],
            0.0,
        )
        self.held.setdefault((group, medium), set()).update(range(first, last))

    def remove(self, group: int, medium: str, block: int) -> None:
        if block in self.held.get((group, medium), ()):
            self.held[group, medium].discard(block)
            self.made.apply(0, [Remove([hashes(TOKENS)[block]], group, medium)], 0.0)

    def usable(self, limit: int) -> tuple[int, float]:
        """The largest number of blocks at which every group has what it needs, and what
        these are worth."""

        def fits(blocks: int) -> bool:
            for group, (attention, window) in self.groups.items():
                has = set().union(*(h for (one, _), h in self.held.items() if one == group))
                if not has and group:
                    continue  # a group that no event has named is not known
                needs = {
                    Attention.FULL: range(blocks),
                    Attention.SLIDING_WINDOW: range(max(blocks - window, 0), blocks),
                    Attention.MAMBA: range(blocks - 1, blocks),
                }[attention]
                if not set(needs) <= has:
                    return False
            return True

        blocks = max((n for n in range(1, limit + 1) if fits(n)), default=0)
        worth = sum(
            max(CREDITS[medium] for (group, medium), h in self.held.items() if not group and n in h)
            for n in range(blocks)
        )
        return blocks, worth


@pytest.mark.parametrize("seed", range(40))
def test_a_hit_is_the_longest_at_which_every_group_has_what_it_needs(seed):
    choose = random.Random(seed)
    groups = {0: (Attention.FULL, 0)}
    for group in range(1, choose.choice([1, 2, 3, 4])):
        groups[group] = choose.choice(
            [(Attention.SLIDING_WINDOW, choose.choice([1, 2, 5, 40])), (Attention.MAMBA, 0)]
        )
    cache = Cache(groups)
    media = choose.choice([["GPU"], ["GPU", "CPU"], ["GPU", "DISK", "CPU_PINNED"]])
    for group in groups:
        cache.store(group, "GPU", 0, choose.randrange(1, 25))
        for medium in media[1:]:
            if not group:
                cache.store(group, medium, 0, choose.randrange(1, 25))
    for _ in range(choose.randrange(8)):
        cache.remove(choose.choice(list(groups)), choose.choice(media), choose.randrange(24))

    for tokens in (24 * BLOCK, 24 * BLOCK - 1, 15 * BLOCK + 1, 4 * BLOCK):
        shown = view(cache.made, TOKENS[:tokens]).candidates[0]
        blocks, worth = cache.usable((tokens - 1) // BLOCK)
        assert shown.hit_tokens == blocks * BLOCK
        assert shown.miss_tokens == tokens - int(worth * BLOCK)


def test_an_engine_that_computes_a_block_again_loses_no_credit_of_the_others():
    cache = Cache({0: (Attention.FULL, 0)})
    cache.store(0, "CPU", 0, 20)
    cache.made.add_replica(0, drop_blocks=2)
    shown = view(cache.made, TOKENS).candidates[0]
    assert (shown.hit_tokens, shown.miss_tokens) == (18 * BLOCK, 24 * BLOCK - 15 * BLOCK)


def test_replicas_with_one_layer_and_with_several_stand_beside_each_other():
    made = scheduler(3)
    made.apply(0, [store(TOKENS[: 10 * BLOCK])], 0.0)
    made.apply(1, [store(TOKENS[: 8 * BLOCK], medium="CPU")], 0.0)
    shown = view(made, TOKENS)
    assert [one.hit_tokens // BLOCK for one in shown.candidates] == [10, 8, 0]
    assert [one.miss_tokens // BLOCK for one in shown.candidates] == [14, 18, 24]
    assert list(shown.holders) == [0]
