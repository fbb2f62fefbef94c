from __future__ import annotations

import pytest
from builders import place, prompt, scheduler, serve
from policy_views import Candidate, chosen, replicas, view

from preble_plugin.core.policies.e2_paper import E2Paper


def test_an_exact_repeat_of_a_prompt_exploits_the_replica_that_served_it():
    # PREBLE 6.1
    shown = view(2048, *replicas(4, holding=[2], hit=2032, window_load_seconds=1.0))

    assert chosen(E2Paper(), shown) == (2, "exploit")


@pytest.mark.parametrize("prefix_hash", range(16))
def test_a_prefix_on_two_of_four_replicas_goes_to_one_of_the_two(prefix_hash):
    # PREBLE 6.2
    candidates = replicas(4, holding=[2, 3], hit=2032, window_load_seconds=1.0)

    assert chosen(E2Paper(), view(2048, *candidates, prefix_hash=prefix_hash))[0] in (2, 3)


def test_cost_is_the_load_of_the_window_and_not_of_the_moment():
    candidates = [
        Candidate(0, window_load_seconds=5.0),
        Candidate(1, window_load_seconds=4.0, load=9.0),
    ]

    assert chosen(E2Paper(), view(2000, *candidates)) == (1, "explore")


def test_exploring_adds_eviction_and_prefill_to_the_load():
    # PREBLE 6.3: 5.2, 5.15, 5.25
    candidates = [
        Candidate(0, window_load_seconds=5.0),
        Candidate(1, window_load_seconds=5.05, hit_tokens=1000),
        Candidate(2, window_load_seconds=5.0, eviction=0.05),
    ]

    assert chosen(E2Paper(), view(2000, *candidates)) == (1, "explore")


def test_what_would_exploit_the_heaviest_goes_to_the_lightest_beyond_the_threshold():
    candidates = replicas(3, holding=[0], hit=2032, window_load_seconds=11.0)
    candidates[0].window_load_seconds = 15.1
    candidates[1].window_load_seconds = 10.0

    assert chosen(E2Paper(), view(2048, *candidates)) == (1, "rebalance")


def test_within_the_threshold_the_heaviest_is_exploited():
    candidates = replicas(3, holding=[0], hit=2032, window_load_seconds=10.0)
    candidates[0].window_load_seconds = 14.9

    assert chosen(E2Paper(), view(2048, *candidates)) == (0, "exploit")


def test_what_exploits_another_than_the_heaviest_is_left_there():
    candidates = replicas(3, holding=[0], hit=2032, window_load_seconds=10.0)
    candidates[0].window_load_seconds = 16.0
    candidates[1].window_load_seconds = 20.0

    assert chosen(E2Paper(), view(2048, *candidates)) == (0, "exploit")


def test_exploring_prefers_the_most_decode_heavy_replica():
    candidates = replicas(3, window_load_seconds=1.0)
    candidates[1].decode_share, candidates[1].window_load_seconds = 0.85, 8.0
    candidates[2].decode_share, candidates[2].window_load_seconds = 0.95, 9.0

    assert chosen(E2Paper(), view(2048, *candidates)) == (2, "decode-heavy")


def test_a_decode_heavy_replica_takes_nothing_that_exploits_another():
    candidates = replicas(3, holding=[0], hit=2032, window_load_seconds=1.0)
    candidates[2].decode_share = 0.95

    assert chosen(E2Paper(), view(2048, *candidates)) == (0, "exploit")


@pytest.mark.parametrize(("now", "branch"), [(1.0, "rebalance"), (200.0, "exploit")])
def test_a_request_that_is_done_weighs_until_the_window_is_over(now, branch):
    made = scheduler(2, policy="e2-paper", window_seconds=60.0)
    first = serve(made, "a", prompt(1, 400), 0.0).replica

    again = place(made, "b", prompt(1, 400), now)

    assert (again.branch, again.replica == first) == (branch, branch == "exploit")


def test_where_outputs_outweigh_prompts_one_replica_draws_all_that_is_explored():
    made = scheduler(3, policy="e2-paper")
    placed = [place(made, str(one), prompt(one, 0, extra=12), one / 1000) for one in range(20)]
    assert {one.branch for one in placed[1:]} == {"decode-heavy"}
    assert len({one.replica for one in placed}) == 1
