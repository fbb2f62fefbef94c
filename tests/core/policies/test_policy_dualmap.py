from __future__ import annotations

from collections import Counter

import pytest
from builders import place, prompt, scheduler
from policy_views import BLOCK, Candidate, View, chosen, replicas, view

from preble_plugin.core.policies import dualmap
from preble_plugin.core.policies.dualmap import HOT_SHARE, LEAST_SAMPLES, DualMap

UNIT = dualmap.KEY_TOKENS // BLOCK
"""Blocks in the shortest key."""


def keys(*units: int) -> bytes:
    """Block keys of a prompt of 512-token pieces, equal where their numbers are."""
    return b"".join(
        (unit * 1000 + block).to_bytes(8, "little") for unit in units for block in range(UNIT)
    )


def asking(candidates: list[Candidate], *units: int, tokens: int = 2000) -> View:
    return view(tokens, *candidates, keys=keys(*units))


def homes(count: int, *units: int) -> tuple[int, int]:
    """Where a prefix is drawn: first its home when all is equal, then when that holds
    something in flight."""
    candidates = replicas(count)
    first = chosen(DualMap(), asking(candidates, *units))[0]
    candidates[first].tokens_in_flight = 1
    return first, chosen(DualMap(), asking(candidates, *units))[0]


def test_a_prefix_has_two_homes_and_prefixes_have_all():
    pairs = Counter(homes(4, prefix) for prefix in range(600))

    assert len(pairs) == 12
    assert all(first != second for first, second in pairs)
    assert min(pairs.values()) > 25


def test_a_home_stays_when_another_replica_leaves():
    for prefix in range(50):
        first, second = homes(5, prefix)
        gone = next(slot for slot in range(5) if slot not in (first, second))
        left = [one for one in replicas(5) if one.index != gone]
        assert chosen(DualMap(), asking(left, prefix))[0] == first


def test_what_follows_the_first_512_tokens_does_not_move_a_prefix():
    assert len({homes(8, 3, other) for other in range(100, 120)}) == 1


def test_the_home_that_has_more_cached_wins_over_the_emptier_one():
    _, second = homes(4, 1)
    candidates = replicas(4, holding=[second], hit=1000)
    candidates[second].tokens_in_flight = 9000

    assert chosen(DualMap(), asking(candidates, 1)) == (second, "affinity")


def test_a_replica_that_is_no_home_is_not_asked_whatever_it_holds():
    first, second = homes(4, 1)
    other = next(slot for slot in range(4) if slot not in (first, second))

    assert chosen(DualMap(), asking(replicas(4, holding=[other], hit=1900), 1))[0] == first


@pytest.mark.parametrize(("queue", "expected"), [(2.39, "affinity"), (2.41, "load")])
def test_beyond_half_the_objective_the_sooner_home_wins(queue, expected):
    # This request takes 0.1 s on the warm home.
    first, second = homes(4, 1)
    candidates = replicas(4, holding=[first], hit=1000)
    candidates[first].load = queue

    assert chosen(DualMap(), asking(candidates, 1)) == (
        first if expected == "affinity" else second,
        expected,
    )


def test_beyond_half_the_objective_the_warm_home_stays_if_it_is_the_sooner():
    first, _ = homes(4, 1)
    candidates = replicas(4, holding=[first], hit=1000, load=3.0)

    assert chosen(DualMap(), asking(candidates, 1)) == (first, "load")


def test_where_both_homes_miss_the_objective_the_next_replica_takes_it():
    first, second = homes(4, 1)
    candidates = replicas(4)
    candidates[first].load, candidates[second].load = 5.0, 6.0
    near = next(slot for slot in ((first + 1) % 4, (first + 2) % 4) if slot not in (first, second))

    assert chosen(DualMap(), asking(candidates, 1)) == (near, "rebalance")


def test_no_replica_takes_over_what_it_would_be_late_with_too():
    first, second = homes(4, 1)
    candidates = replicas(4, load=5.0)
    candidates[second].load = 6.0

    assert chosen(DualMap(), asking(candidates, 1)) == (first, "load")


def test_of_two_replicas_both_are_homes_and_nothing_is_rebalanced():
    candidates = replicas(2, load=9.0)
    candidates[1].load = 8.0

    assert chosen(DualMap(), asking(candidates, 1)) == (1, "load")


def test_one_replica_takes_everything():
    assert chosen(DualMap(), asking(replicas(1, load=99.0), 1))[0] == 0


def test_a_prompt_without_a_block_goes_where_it_begins_soonest():
    candidates = replicas(3, load=2.0)
    candidates[1].load = 1.0

    assert chosen(DualMap(), view(5, *candidates)) == (1, "load")


def test_a_hot_prefix_is_told_apart_by_what_follows_it():
    policy, candidates = DualMap(), replicas(8)
    for number in range(LEAST_SAMPLES):
        chosen(policy, asking(candidates, 7, 1000 + number))

    spread = {chosen(policy, asking(candidates, 7, 2000 + number))[0] for number in range(60)}

    assert spread == set(range(8))


def test_a_prefix_is_cold_again_when_it_is_asked_for_no_more():
    policy, candidates = DualMap(), replicas(8)
    for number in range(50):
        chosen(policy, asking(candidates, 7, 1000 + number))
    for number in range(dualmap.WINDOW):
        chosen(policy, asking(candidates, 100 + number))

    few = int(HOT_SHARE * dualmap.WINDOW) - 1
    found = {chosen(policy, asking(candidates, 7, 3000 + number))[0] for number in range(few)}

    assert len(found) == 1


def test_only_the_last_requests_are_remembered():
    policy, candidates = DualMap(), replicas(4)
    for number in range(3 * dualmap.WINDOW):
        chosen(policy, asking(candidates, number, number + 1))

    assert len(policy._window) == dualmap.WINDOW
    assert len(policy._seen) == dualmap.WINDOW
    assert sum(policy._seen.values()) == sum(map(len, policy._window)) == dualmap.WINDOW


def test_a_queue_moves_a_prefix_to_its_second_home_and_no_further():
    made = scheduler(4, policy="dualmap")
    document = prompt(1, 200)
    first = place(made, "0", document + prompt(100, 1)).replica
    assert place(made, "1", document + prompt(101, 1)).replica == first
    place(made, "long", prompt(2, 1800), fixed_replica=first)
    moved = place(made, "2", document + prompt(102, 1))
    assert moved.replica != first
    assert moved.branch == "load"
    assert place(made, "3", document + prompt(103, 1)).replica == moved.replica
