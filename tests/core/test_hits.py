"""The usable hit of a replica with several attention groups and media, by its definition."""

from __future__ import annotations

import random

import pytest
from builders import BLOCK, hashes, prompt, scheduler, store, view

from preble_plugin.core import Attention, Remove, Scheduler

TOKENS = prompt(1, 24)
ALL_MEDIA = ("GPU", "CPU", "CPU_PINNED", "DISK", "EXTERNAL")


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
        """Blocks: the largest number at which every group has what it needs on the GPU, and
        from there on in slower media; and what these are worth."""
        on_gpu = self._longest({"GPU"}, 0, limit)
        slower = {medium for _, medium in self.held} - {"GPU"}
        return (found := self._longest(slower, on_gpu, limit)), found - 0.25 * (found - on_gpu)

    def _longest(self, media: set[str], first: int, limit: int) -> int:
        def fits(blocks: int) -> bool:
            for group, (attention, window) in self.groups.items():
                if group and not any(self.held.get((group, one)) for one in ALL_MEDIA):
                    continue  # a group that no event has named is not known
                has = set().union(*(self.held.get((group, one), set()) for one in media))
                needs = {
                    Attention.FULL: range(first, blocks),
                    Attention.SLIDING_WINDOW: range(max(blocks - window, first), blocks),
                    Attention.MAMBA: range(blocks - 1, blocks),
                }[attention]
                if not set(needs) <= has:
                    return False
            return True

        return max((n for n in range(first + 1, limit + 1) if fits(n)), default=first)


@pytest.mark.parametrize("seed", range(40))
def test_a_hit_is_the_longest_at_which_every_group_has_what_it_needs(seed):
    choose = random.Random(seed)
    groups = {0: (Attention.FULL, 0)}
    for group in range(1, choose.choice([1, 2, 3, 4])):
        groups[group] = choose.choice(
            [(Attention.SLIDING_WINDOW, choose.choice([1, 2, 5, 40])), (Attention.MAMBA, 0)]
        )
    cache = Cache(groups)
    slower = choose.choice([[], ["CPU"], ["DISK", "CPU_PINNED"], ["CPU", "EXTERNAL"]])
    media = ["GPU", *slower]
    for group in groups:
        cache.store(group, "GPU", 0, choose.randrange(1, 25))
        for medium in media[1:]:
            if not group or choose.random() < 0.7:
                cache.store(group, medium, 0, choose.randrange(1, 25))
    for _ in range(choose.randrange(8)):
        cache.remove(choose.choice(list(groups)), choose.choice(media), choose.randrange(24))

    for tokens in (24 * BLOCK, 24 * BLOCK - 1, 15 * BLOCK + 1, 4 * BLOCK):
        shown = view(cache.made, TOKENS[:tokens]).candidates[0]
        blocks, worth = cache.usable((tokens - 1) // BLOCK)
        assert shown.hit_tokens == blocks * BLOCK
        assert shown.miss_tokens == tokens - int(worth * BLOCK)


@pytest.mark.parametrize(("on_gpu", "worth"), [(0, 13.5), (10, 16), (19, 18)])
def test_what_an_engine_computes_again_is_the_end_of_what_it_loads(on_gpu: int, worth: float):
    cache = Cache({0: (Attention.FULL, 0)})
    cache.store(0, "CPU", 0, 20)
    if on_gpu:
        cache.store(0, "GPU", 0, on_gpu)
    cache.made.add_replica(0, drop_blocks=2)
    shown = view(cache.made, TOKENS).candidates[0]
    assert (shown.hit_tokens, shown.miss_tokens) == (18 * BLOCK, 24 * BLOCK - worth * BLOCK)


def test_what_is_loaded_takes_room_on_the_gpu():
    cache = Cache({0: (Attention.FULL, 0)})
    cache.store(0, "CPU", 0, 20)
    cache.made.add_replica(0, capacity_blocks=24)
    assert view(cache.made, TOKENS).candidates[0].evicted_blocks == 0
    cache.made.add_replica(0, capacity_blocks=20)
    assert view(cache.made, TOKENS).candidates[0].evicted_blocks == 4


def test_replicas_with_one_layer_and_with_several_stand_beside_each_other():
    made = scheduler(3)
    made.apply(0, [store(TOKENS[: 10 * BLOCK])], 0.0)
    made.apply(1, [store(TOKENS[: 8 * BLOCK], medium="CPU")], 0.0)
    shown = view(made, TOKENS)
    assert [one.hit_tokens // BLOCK for one in shown.candidates] == [10, 8, 0]
    assert [one.miss_tokens // BLOCK for one in shown.candidates] == [14, 18, 24]
    assert list(shown.holders) == [0]
