"""M against a cache that is a list: victims in order of last use, priced by their uses."""

from __future__ import annotations

import random

import pytest
from builders import BLOCK, hashes, hold, place, prompt, scheduler, serve, store, use, view

from preble_plugin.core import Finished, FirstToken, Remove, Scheduler
from preble_plugin.core.time_model import TimeModel

PREFILL = TimeModel().prefill_seconds
RUN = PREFILL(20 * BLOCK, 20 * BLOCK)
"""Seconds to compute one of the documents."""


def full_cache(uses: dict[int, int], capacity: int = 60) -> Scheduler:
    """One replica with documents 1, 2, 3 of 20 blocks, used so many times each, in this
    order."""
    made = scheduler(1, capacity=capacity)
    for name in (1, 2, 3):
        hold(made, 0, prompt(name, 20))
    for name, times in uses.items():
        for _ in range(times):
            use(made, 0, prompt(name, 20, extra=1), 1.0)
    return made


def lost(made: Scheduler, blocks: int, now: float = 2.0, replica: int = 0) -> float:
    """M of a prompt of so many blocks that nothing is cached of."""
    return view(made, prompt(900, blocks), now).candidates[replica].eviction_seconds


@pytest.mark.parametrize("seed", range(20))
def test_m_is_the_prefill_of_the_oldest_runs_by_their_share_of_the_requests(seed):
    choose = random.Random(seed)
    blocks = {name: choose.randrange(1, 30) for name in range(choose.randrange(1, 12))}
    capacity = sum(blocks.values()) + choose.choice([0, 0, 9])
    made = scheduler(1, capacity=capacity)
    order: list[int] = []
    uses = dict.fromkeys(blocks, 0)
    for name in blocks:
        hold(made, 0, prompt(name, blocks[name]))
        order.append(name)
    for _ in range(choose.randrange(40)):
        name = choose.choice(list(blocks))
        use(made, 0, prompt(name, blocks[name], extra=1), choose.uniform(0.0, 60.0))
        uses[name] += 1
        order.remove(name)
        order.append(name)

    wanted = choose.randrange(1, 1 + 2 * capacity)
    room, expected = capacity - sum(blocks.values()), 0.0
    for name in order:
        if room >= wanted:
            break
        room += blocks[name]
        share = uses[name] / max(1, sum(uses.values()))
        expected += share * PREFILL(blocks[name] * BLOCK, blocks[name] * BLOCK)
    assert lost(made, wanted, 61.0) == pytest.approx(expected)


def test_room_in_a_cache_that_is_not_full_costs_nothing():
    uses = {1: 5, 2: 1, 3: 1}
    assert lost(full_cache(uses, capacity=80), 20) == 0.0
    assert lost(full_cache(uses, capacity=79), 20) == pytest.approx(5 * RUN / 7)


def test_an_unknown_capacity_prices_no_eviction():
    made = full_cache({1: 5, 2: 5, 3: 5})
    made.add_replica(0, capacity_blocks=None)
    assert lost(made, 20) == 0.0


def test_a_prompt_larger_than_the_cache_is_priced_by_all_that_is_held():
    made = full_cache({1: 5, 2: 5, 3: 5})
    assert lost(made, 240) == lost(made, 60) == pytest.approx(RUN)


def test_a_placement_makes_its_prompt_the_last_to_go():
    made = full_cache({1: 3, 2: 1, 3: 1})
    place(made, "in flight", prompt(2, 20, extra=1), 1.5)
    place(made, "in flight too", prompt(1, 20, extra=1), 1.6)
    # Oldest first: 3 (one use), 2 (two), 1 (four), of seven requests.
    assert lost(made, 20) == pytest.approx(RUN / 7)
    assert lost(made, 40) == pytest.approx(3 * RUN / 7)


def test_the_end_of_a_request_makes_its_prompt_the_last_to_go_again():
    made = full_cache({1: 3})
    place(made, "long", prompt(1, 20, extra=1), 1.5)
    for name in (2, 3):
        use(made, 0, prompt(name, 20, extra=1), 1.6)
    assert lost(made, 20) == pytest.approx(4 * RUN / 6)
    made.observe(0, [FirstToken("long", None, timed=False), Finished("long", 9)], 1.7)
    assert lost(made, 20) == pytest.approx(RUN / 6)


def test_a_store_is_the_last_to_go():
    made = full_cache({1: 2, 2: 4})
    made.apply(0, [Remove(hashes(prompt(3, 20)))], 1.6)
    hold(made, 0, prompt(4, 20))
    assert lost(made, 20) == pytest.approx(2 * RUN / 6)
    assert lost(made, 60) == pytest.approx(6 * RUN / 6)


def test_what_events_say_was_evicted_makes_room():
    made = full_cache({1: 5, 2: 1, 3: 1})
    made.apply(0, [Remove(hashes(prompt(1, 20)))], 2.0)
    assert lost(made, 20) == 0.0
    assert lost(made, 40) == pytest.approx(RUN / 7)


def test_what_is_expected_takes_room_as_what_is_held():
    made = full_cache({1: 5, 2: 1, 3: 1}, capacity=80)
    place(made, "in flight", prompt(5, 20), 1.5)
    candidate = view(made, prompt(900, 20), 2.0).candidates[0]
    assert candidate.evicted_blocks == 20
    assert candidate.eviction_seconds == pytest.approx(5 * RUN / 8)
    made.observe(0, [Finished("in flight", 0, aborted=True)], 1.6)
    assert view(made, prompt(900, 20), 2.0).candidates[0].evicted_blocks == 0


def test_a_run_at_a_depth_is_priced_with_the_context_before_it():
    made, shared = scheduler(1, capacity=80), prompt(1, 40)
    for name in (2, 3):
        hold(made, 0, shared + prompt(name, 20))
    use(made, 0, shared + prompt(2, 20, extra=1), 1.0)
    use(made, 0, shared + prompt(3, 20, extra=1), 1.0)
    assert lost(made, 20) == pytest.approx(PREFILL(20 * BLOCK, 60 * BLOCK) / 2)


def test_of_a_run_that_is_held_in_part_that_part_is_lost():
    made = full_cache({1: 2, 2: 1, 3: 1})
    made.apply(0, [Remove(hashes(prompt(1, 20))[15:])], 1.5)
    assert lost(made, 20) == pytest.approx(PREFILL(15 * BLOCK, 15 * BLOCK) * 2 / 4)


def test_runs_beyond_those_looked_at_cost_as_much_as_they_do():
    made = scheduler(1, capacity=2 * 150)
    for name in range(150):
        hold(made, 0, prompt(name, 2))
    for name in range(150):
        use(made, 0, prompt(name, 2, extra=1), 1.0)
    one = PREFILL(2 * BLOCK, 2 * BLOCK) / 150
    assert lost(made, 2 * 128) == pytest.approx(128 * one)
    assert lost(made, 2 * 140) == pytest.approx(140 * one)


def test_a_run_that_is_split_has_the_uses_it_had():
    made = full_cache({1: 4})
    place(made, "parts", prompt(1, 8) + prompt(6, 4), 1.5, reads_cache=False)
    made.observe(0, [Finished("parts", 0, aborted=True)], 1.5)
    halves = 5 * PREFILL(8 * BLOCK, 8 * BLOCK) + 4 * PREFILL(12 * BLOCK, 20 * BLOCK)
    made.apply(0, [Remove(hashes(prompt(name, 20))) for name in (2, 3)], 1.6)
    assert lost(made, 60) == pytest.approx(halves / 5)


def test_a_run_that_is_merged_has_the_uses_of_the_more_used_half():
    made, whole = scheduler(1, capacity=20), prompt(1, 20)
    hold(made, 0, whole[: 8 * BLOCK])
    for _ in range(3):
        use(made, 0, whole[: 8 * BLOCK], 1.0)
    serve(made, "longer", whole, 1.0)
    made.observe(0, [], 5.0)
    assert made.status(5.0).tree_nodes == 1
    assert lost(made, 20, 5.0) == pytest.approx(
        4 * made._replicas[0].model.prefill_seconds(20 * BLOCK, 20 * BLOCK) / 4
    )


def test_use_fades_with_the_window_and_is_forgotten_with_the_next():
    # Nobody was assigned in the last three minutes of it, so a use counts once.
    made = full_cache({1: 4, 2: 1, 3: 1})
    found = [lost(made, 20, now) for now in (190.0, 225.0, 270.0, 315.0, 359.0, 361.0)]
    assert found[1:4] == [pytest.approx(RUN * uses) for uses in (3.0, 2.0, 1.0)]
    assert found[-1] == 0.0 < found[-2] < 0.1 * RUN


def test_a_replica_in_the_place_of_another_has_none_of_its_uses():
    made = scheduler(2, capacity=20)
    for replica in range(2):
        hold(made, replica, prompt(1, 20))
    for _ in range(3):
        use(made, 0, prompt(1, 20, extra=1), 1.0)
    made.remove_replica(0)
    made.add_replica(0, capacity_blocks=20)
    hold(made, 0, prompt(1, 20))
    use(made, 0, prompt(7, 0, 5), 1.0)
    assert lost(made, 20) == 0.0


def test_each_replica_loses_what_was_used_there():
    made = scheduler(2, capacity=20)
    for replica in range(2):
        made.apply(replica, [store(prompt(1, 20))], 0.0)
        use(made, replica, prompt(8, 0, 5), 1.0)
    use(made, 1, prompt(1, 20, extra=1), 1.0)
    assert (lost(made, 20, replica=0), lost(made, 20, replica=1)) == (0.0, pytest.approx(RUN / 2))
