from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
from builders import chosen, decode, hold, place, prompt, scheduler, wait_seconds

from preble_plugin.core import Scheduler


def pieces(*numbers: int, blocks: int = 32) -> list[int]:
    """A prompt of pieces of 512 tokens, equal where their numbers are."""
    return [token for number in numbers for token in prompt(number, blocks)]


def fleet(replicas: int = 4) -> Scheduler:
    return scheduler(replicas, policy="dualmap")


@cache
def homes(replicas: int, *numbers: int) -> tuple[int, int]:
    """Where a prefix is drawn: first its home when all is equal, then the home it has
    when something is in flight on that one."""
    made = fleet(replicas)
    first = chosen(made, pieces(*numbers))[0]
    decode(made, first)
    return int(first), int(chosen(made, pieces(*numbers))[0])


def test_a_prefix_has_two_homes_and_prefixes_have_all():
    pairs = Counter(homes(4, prefix) for prefix in range(300))
    assert len(pairs) == 12
    assert all(first != second for first, second in pairs)
    assert min(pairs.values()) > 10


def test_a_home_stays_when_another_replica_leaves():
    for prefix in range(30):
        first, second = homes(5, prefix)
        made = fleet(5)
        made.remove_replica(next(slot for slot in range(5) if slot not in (first, second)))
        assert chosen(made, pieces(prefix))[0] == first


def test_what_follows_the_first_512_tokens_does_not_move_a_prefix():
    assert len({homes(8, 3, other) for other in range(100, 120)}) == 1
    assert len({homes(8, 3 + other) for other in range(100, 120)}) > 5


def test_the_home_that_has_more_cached_wins_over_the_emptier_one():
    _, second = homes(4, 1)
    made = fleet()
    hold(made, second, pieces(1))
    decode(made, second, 9, 1000)
    assert chosen(made, pieces(1, 2)) == (second, "affinity")


def test_a_replica_that_is_no_home_is_not_asked_whatever_it_holds():
    first, second = homes(4, 1)
    made = fleet()
    hold(made, next(slot for slot in range(4) if slot not in (first, second)), pieces(1, 2))
    assert chosen(made, pieces(1, 2))[0] == first


@pytest.mark.parametrize(("queue", "branch"), [(2.47, "affinity"), (2.49, "load")])
def test_beyond_half_the_objective_the_sooner_home_wins(queue, branch):
    # The last block of the prompt, computed again on the warm home: 0.015 s.
    first, second = homes(4, 1)
    made = fleet()
    hold(made, first, pieces(1, 2))
    wait_seconds(made, first, queue)
    assert chosen(made, pieces(1, 2)) == (first if branch == "affinity" else second, branch)


def test_beyond_half_the_objective_the_warm_home_stays_if_it_is_the_sooner():
    first, second = homes(4, 1)
    made = fleet()
    hold(made, first, pieces(1, 2))
    for home in (first, second):
        wait_seconds(made, home, 3.0)
    assert chosen(made, pieces(1, 2)) == (first, "load")


@pytest.mark.parametrize(("queue", "branch"), [(4.8, "load"), (5.2, "rebalance")])
def test_where_both_homes_miss_the_objective_the_next_replica_takes_it(queue, branch):
    # 1,024 tokens take 0.117 s more.
    for prefix in range(12):
        first, second = homes(4, prefix)
        made = fleet()
        wait_seconds(made, first, queue)
        wait_seconds(made, second, queue + 0.5)
        after = [(first + 1) % 4, (first + 2) % 4]
        near = after[1] if after[0] == second else after[0]
        found = chosen(made, pieces(prefix, 99))
        assert found == (near if branch == "rebalance" else first, branch)


def test_no_replica_takes_over_what_it_would_be_late_with_too():
    first, second = homes(4, 1)
    made = fleet()
    for replica in range(4):
        wait_seconds(made, replica, 6.0 if replica == second else 5.2)
    assert chosen(made, pieces(1)) == (first, "load")


def test_of_two_replicas_both_are_homes_and_nothing_is_rebalanced():
    made = fleet(2)
    for replica, seconds in enumerate((9.0, 8.0)):
        wait_seconds(made, replica, seconds)
    assert chosen(made, pieces(1)) == (1, "load")


def test_a_prompt_without_a_block_goes_where_it_begins_soonest():
    made = fleet(3)
    for replica, seconds in enumerate((2.0, 1.0, 2.0)):
        wait_seconds(made, replica, seconds)
    assert chosen(made, prompt(1, 0, 5)) == (1, "load")


def spread(made: Scheduler, requests: int, first: int) -> set[object]:
    """Where questions about prefix 7 go."""
    return {chosen(made, pieces(7, first + number))[0] for number in range(requests)}


def test_a_hot_prefix_is_told_apart_by_what_follows_it():
    made = fleet(8)
    assert len(spread(made, 19, 1000)) == 1
    assert spread(made, 60, 2000) == set(range(8))


@pytest.mark.parametrize(("others", "cold"), [(180, False), (200, True)])
def test_a_prefix_is_cold_again_when_it_is_asked_for_no_more(others, cold):
    # Of the last 200 requests 6.12 %, which is twelve of them and a part.
    made = fleet(8)
    spread(made, 50, 1000)
    for number in range(others):
        chosen(made, pieces(100 + number, blocks=32))
    assert (len(spread(made, 11, 3000)) == 1) is cold


def test_a_queue_moves_a_prefix_to_its_second_home_and_no_further():
    made = fleet()
    document = prompt(1, 200)
    first = place(made, "0", document + prompt(100, 1)).replica
    assert place(made, "1", document + prompt(101, 1)).replica == first
    place(made, "long", prompt(2, 1800), fixed_replica=first)
    moved = place(made, "2", document + prompt(102, 1))
    assert moved.replica != first
    assert moved.branch == "load"
    assert place(made, "3", document + prompt(103, 1)).replica == moved.replica
