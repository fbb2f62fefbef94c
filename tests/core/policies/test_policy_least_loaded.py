from __future__ import annotations

from collections import Counter

from builders import place, prompt, scheduler
from policy_views import Candidate, chosen, replicas, view

from preble_plugin.core import Finished, FirstToken
from preble_plugin.core.policies.least_loaded import LeastLoaded


def test_the_fewest_requests_win():
    candidates = [
        Candidate(0, running=3),
        Candidate(1, waiting=1, running=1),
        Candidate(2, running=5),
    ]

    assert chosen(LeastLoaded(), view(10, *candidates)) == (1, "least-loaded")


def test_a_queue_before_a_full_cache_counts_up_to_four_times():
    # 4 + 4 * 6 * (1 - 0.5) = 16 against 15 that run
    candidates = [Candidate(0, waiting=4, cache_usage=1.0), Candidate(1, running=15)]

    assert chosen(LeastLoaded(), view(10, *candidates))[0] == 1


def test_a_queue_before_a_half_empty_cache_counts_once():
    candidates = [Candidate(0, waiting=4, cache_usage=0.5), Candidate(1, running=5)]

    assert chosen(LeastLoaded(), view(10, *candidates))[0] == 0


def test_a_full_cache_without_a_queue_costs_nothing():
    candidates = [Candidate(0, running=4, cache_usage=1.0), Candidate(1, running=5)]

    assert chosen(LeastLoaded(), view(10, *candidates))[0] == 0


def test_equal_replicas_are_taken_in_turn():
    policy = LeastLoaded()

    assert [chosen(policy, view(10, *replicas(3)))[0] for _ in range(5)] == [0, 1, 2, 0, 1]


def test_a_burst_counted_as_it_is_placed_spreads_evenly():
    policy = LeastLoaded()
    candidates = replicas(4)
    for _ in range(400):
        candidates[chosen(policy, view(10, *candidates))[0]].waiting += 1

    assert Counter(one.waiting for one in candidates) == {100: 4}


def test_a_queue_before_a_cache_that_is_full_loses_to_more_requests_that_run():
    made = scheduler(2, policy="least-loaded", capacity=100)
    for name in "ab":  # unlike prompts: 80 of 100 blocks, so each waiting one is 2.8
        place(made, name, prompt(ord(name), 40), fixed_replica=0)
    for name in "cde":
        place(made, name, prompt(1, 10), fixed_replica=1)
    made.observe(1, [FirstToken(name, 0) for name in "cde"], 0.5)
    assert place(made, "asked", prompt(2, 10), 0.5).replica == 1
    made.observe(0, [FirstToken(name, 0) for name in "ab"], 0.6)
    assert place(made, "next", prompt(3, 10), 0.6).replica == 0


def test_prompts_that_share_their_blocks_fill_a_cache_once():
    made = scheduler(2, policy="least-loaded", capacity=100)
    for name in "ab":
        place(made, name, prompt(1, 40), fixed_replica=0)
    for name in "cde":
        place(made, name, prompt(1, 10), fixed_replica=1)
    made.observe(1, [FirstToken(name, 0) for name in "cde"], 0.5)
    assert place(made, "asked", prompt(2, 10), 0.5).replica == 0
    made.observe(1, [Finished(name, 3) for name in "cde"], 0.6)
    assert place(made, "next", prompt(3, 10), 0.6).replica == 1
