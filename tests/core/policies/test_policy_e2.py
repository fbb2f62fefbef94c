from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_views import SECONDS_PER_TOKEN as SECONDS
from policy_views import Candidate, View, chosen, replicas, view

from preble_plugin.core.policies.e2 import E2, HEADROOM, SLACK, TH_BAL, exploits
from preble_plugin.core.policies.protocol import least


def test_an_exact_repeat_of_a_prompt_exploits_the_replica_that_served_it():
    # PREBLE 6.1. The engine computes the last block again: the hit is one block short.
    shown = view(2048, *replicas(4, holding=[2], hit=2032))

    assert chosen(E2(), shown) == (2, "exploit")


@pytest.mark.parametrize("prompt_tokens", [17, 32, 33, 48])
def test_a_repeat_of_a_prompt_of_few_blocks_goes_where_it_was(prompt_tokens):
    hit = (prompt_tokens - 1) // 16 * 16
    shown = view(prompt_tokens, *replicas(4, holding=[3], hit=hit))

    assert chosen(E2(), shown)[0] == 3


@pytest.mark.parametrize("prefix_hash", range(16))
def test_a_prefix_on_two_of_four_replicas_goes_to_one_of_the_two(prefix_hash):
    # PREBLE 6.2: the argmin is over the candidates, the answer a replica.
    shown = view(2048, *replicas(4, holding=[2, 3], hit=2032), prefix_hash=prefix_hash)

    assert chosen(E2(), shown)[0] in (2, 3)


def test_of_two_holders_the_less_loaded_takes_the_request():
    candidates = replicas(4, holding=[2, 3], hit=2032)
    candidates[2].load = 0.05

    assert chosen(E2(), view(2048, *candidates)) == (3, "exploit")


def test_half_cached_is_explored_and_a_token_more_exploits():
    half = chosen(E2(), view(2000, *replicas(2, holding=[1], hit=1000)))
    more = chosen(E2(), view(2000, *replicas(2, holding=[1], hit=1001)))

    assert (half[1], more[1]) == ("explore", "exploit")


def test_exploring_adds_load_eviction_and_what_misses_on_each_replica():
    # PREBLE 6.3: P counts, and per replica. 0.20, 0.15 (a hit saves 0.09), 0.25.
    candidates = [
        Candidate(0),
        Candidate(1, hit_tokens=900, load=0.04),
        Candidate(2, eviction=0.05),
    ]

    assert chosen(E2(), view(2000, *candidates)) == (1, "explore")


def test_a_faster_replica_is_worth_its_load():
    candidates = [Candidate(0), Candidate(1, load=0.05, seconds_per_token=SECONDS / 2)]

    assert chosen(E2(), view(2000, *candidates)) == (1, "explore")


def test_eviction_that_costs_more_than_the_queue_elsewhere_is_avoided():
    candidates = [Candidate(0, eviction=0.5), Candidate(1, load=0.4)]

    assert chosen(E2(), view(2000, *candidates)) == (1, "explore")


def test_a_queue_longer_than_computing_the_prompt_five_times_moves_a_cached_request():
    candidates = replicas(4, holding=[0], hit=2032)
    candidates[0].load = 1.03  # the prompt anew: 0.2048 s

    moved = chosen(E2(), view(2048, *candidates))

    assert (moved[0] != 0, moved[1]) == (True, "rebalance")


def test_a_queue_shorter_than_computing_the_prompt_five_times_keeps_it():
    candidates = replicas(4, holding=[0], hit=2032)
    candidates[0].load = 1.00

    assert chosen(E2(), view(2048, *candidates)) == (0, "exploit")


def test_a_long_document_stays_behind_a_queue_that_moves_a_short_prompt():
    candidates = replicas(4, holding=[0], hit=23_984)
    candidates[0].load = 1.05

    assert chosen(E2(), view(24_000, *candidates)) == (0, "exploit")


def test_replicas_all_loaded_much_alike_keep_their_prefixes():
    candidates = replicas(4, holding=[0], hit=2032, load=10.0)
    candidates[0].load = 39.0  # 29 s more, but within TH_BAL

    assert chosen(E2(), view(2048, *candidates)) == (0, "exploit")


def test_rebalancing_takes_the_cheapest_of_the_lighter_replicas():
    candidates = replicas(4, holding=[0], hit=2032)
    for candidate, load in zip(candidates, [5.0, 0.3, 0.1, 0.2], strict=True):
        candidate.load = load

    assert chosen(E2(), view(2048, *candidates)) == (2, "rebalance")


def test_eviction_elsewhere_keeps_a_cached_request_where_it_is():
    candidates = replicas(2, holding=[0], hit=2032)
    candidates[0].load = 1.0
    candidates[1].eviction = 0.7

    assert chosen(E2(), view(2048, *candidates)) == (0, "exploit")


def test_prefill_weighs_by_who_runs_beside_it():
    candidates = replicas(2)
    candidates[0].running, candidates[1].load = 9, 0.5  # 0.2 s x 10/6 and 0.7 s x 2/6
    candidates[1].running = 1

    assert chosen(E2(), view(2000, *candidates)) == (1, "explore")


def test_equally_crowded_replicas_are_told_apart_by_the_papers_sum():
    candidates = replicas(3, running=7)
    for candidate, load, eviction in zip(
        candidates, [0.3, 0.1, 0.0], [0.0, 0.1, 0.25], strict=True
    ):
        candidate.load, candidate.eviction = load, eviction

    assert chosen(E2(), view(2000, *candidates)) == (1, "explore")


@pytest.mark.parametrize(
    ("share", "holding", "branch"),
    [(0.9, [0], "replicate"), (0.9, [0, 1, 2], "replicate"), (0.3, [0, 1], "exploit")],
)
def test_a_prefix_of_many_requests_deserves_as_many_replicas(share, holding, branch):
    candidates = replicas(4, holding=holding, hit=2032)
    for position in holding:
        candidates[position].load = 0.05

    position, rule = chosen(E2(), view(2048, *candidates, hit_share=share))

    assert (rule, position in holding) == (branch, branch == "exploit")


@pytest.mark.parametrize(
    ("share", "eviction", "branch"),
    [(0.6, 0.02, "replicate"), (0.6, 0.021, "exploit"), (0.7, 0.021, "replicate")],
)
def test_beyond_its_share_a_hot_prefix_puts_out_nothing_in_use(share, eviction, branch):
    candidates = replicas(3, holding=[0], hit=1984)
    candidates[0].load = 0.5
    for other in candidates[1:]:
        other.eviction = eviction
    shown = view(2000, *candidates, hit_share=share)

    assert chosen(E2(without=["rebalancing"]), shown)[1] == branch
    assert chosen(E2(without=["eviction"]), shown)[1] == "replicate"


def test_a_hot_prefix_is_not_sent_where_the_queue_is_longer():
    candidates = replicas(2, holding=[0], hit=2032)
    candidates[0].load, candidates[1].load = 0.05, 0.06

    assert chosen(E2(), view(2048, *candidates, hit_share=1.0)) == (0, "exploit")


def test_different_prefixes_spread_over_idle_replicas_and_each_stays_with_its_own():
    seen = Counter(
        chosen(E2(), view(2048, *replicas(8), prefix_hash=hash_ * 0x9E3779B97F4A7C15 % 2**64))[0]
        for hash_ in range(800)
    )
    again = [chosen(E2(), view(2048, *replicas(8), prefix_hash=99))[0] for _ in range(10)]

    assert set(seen) == set(range(8))
    assert max(seen.values()) < 150
    assert len(set(again)) == 1


def test_a_short_common_preamble_and_a_little_more_speed_draw_nothing_to_one_replica():
    seen = Counter()
    for prefix in range(800):
        candidates = replicas(8, holding=[3], hit=64)
        candidates[6].seconds_per_token *= 0.97
        shown = view(2048, *candidates, prefix_hash=prefix * 0x9E3779B97F4A7C15 % 2**64)
        seen[chosen(E2(), shown)[0]] += 1

    assert set(seen) == set(range(8))
    assert max(seen.values()) < 150


def test_one_policy_object_does_not_rotate():
    policy = E2()

    assert len({chosen(policy, view(2048, *replicas(8)))[0] for _ in range(20)}) == 1


def test_of_equal_costs_the_replica_that_evicts_least_wins():
    candidates = replicas(4, evicted_blocks=3)
    candidates[1].evicted_blocks = 0

    assert chosen(E2(), view(2048, *candidates))[0] == 1


def test_an_idle_holder_is_chosen_without_a_look_at_the_others():
    candidates = replicas(8, holding=[5], hit=2032)

    chosen(E2(), view(2048, *candidates))

    assert sum((other.asked for other in candidates if other.index != 5), Counter()) == Counter()


def test_a_holder_among_replicas_as_busy_costs_no_look_at_them():
    candidates = replicas(8, holding=[5], hit=2032, load=1.0)

    chosen(E2(), view(2048, *candidates))

    asked = sum((other.asked for other in candidates if other.index != 5), Counter())
    assert asked == Counter()


@st.composite
def views(draw):
    prompt = draw(st.integers(1, 5000))
    seconds = st.floats(0, 100, allow_subnormal=False)
    candidates = [
        Candidate(
            index,
            hit_tokens=draw(st.integers(0, prompt - 1)),
            load=draw(seconds),
            eviction=draw(seconds),
            evicted_blocks=draw(st.integers(0, 3)),
            waiting=draw(st.integers(0, 2)),
            running=draw(st.integers(0, 3)),
        )
        for index in range(draw(st.integers(1, 6)))
    ]
    return view(
        prompt,
        *candidates,
        prefix_hash=draw(st.integers(0, 2**64 - 1)),
        hit_share=draw(st.sampled_from([0.0, 0.2, 1.0])),
    )


SLACK_SECONDS = 0.1 * 5000 * SECONDS
"""No tie is wider: `SLACK` of the longest prompt's prefill."""


def costs_of(shown: View) -> list[float]:
    """E2's costs, all of them."""
    mean = sum(shown.in_flight) / len(shown.in_flight)
    return [
        (one.load + one.miss_tokens * one.seconds_per_token)
        * (1 + one.waiting + one.running)
        / (1 + mean)
        + one.eviction
        for one in shown.candidates
    ]


@given(views())
def test_every_choice_keeps_the_rule_of_its_branch(shown):
    index, branch = chosen(E2(), shown)

    costs = costs_of(shown)
    own = costs[index]
    longest = shown.longest_hit_tokens
    holders = [i for i, one in enumerate(shown.candidates) if one.hit_tokens == longest]
    others = [cost for i, cost in enumerate(costs) if i not in holders]
    exploiting = shown.request.prompt_tokens - longest < longest
    assert exploiting == (branch != "explore")
    match branch:
        case "explore":
            assert own <= min(costs) + SLACK_SECONDS
        case "exploit" if len(holders) > 1:
            assert own <= min(costs[i] for i in holders) + SLACK_SECONDS
        case "exploit":
            assert index == holders[0]
        case "replicate":
            assert own <= min(others) + SLACK_SECONDS
            assert shown.hit_share * len(costs) * HEADROOM > len(holders)
            there = shown.candidates[index]
            own = int(shown.hit_share * len(costs)) > len(holders)
            assert own or there.eviction <= SLACK * there.miss_tokens * SECONDS
        case "rebalance":
            held = min(costs[i] for i in holders)
            assert own <= min(others) + SLACK_SECONDS
            assert own * TH_BAL < held + TH_BAL * SLACK_SECONDS
            prefill = shown.candidates[index].miss_tokens * SECONDS
            assert held - own > TH_BAL * prefill - SLACK_SECONDS


def plain_e2(shown: View) -> tuple[int, str]:
    """E2 as its docstring has it, every cost asked for."""
    candidates, costs = list(shown.candidates), costs_of(shown)

    def cheapest(positions: list[int]) -> int:
        lowest = min(positions, key=lambda position: costs[position])
        enough = costs[lowest] + SLACK * candidates[lowest].prefill_seconds
        tied = [position for position in positions if costs[position] <= enough]
        if len(tied) == 1:
            return tied[0]
        among = [candidates[position] for position in tied]
        return tied[least(among, [0.0] * len(tied), shown)]

    if not exploits(shown):
        return cheapest(list(range(len(candidates)))), "explore"
    holding = list(shown.holders)
    target = cheapest(holding)
    others = [position for position in range(len(candidates)) if position not in holding]
    if candidates[target].load > 0.0 and others:
        if shown.hit_share * len(candidates) * HEADROOM > len(holding):
            other = cheapest(others)
            room = candidates[other].eviction <= SLACK * candidates[other].prefill_seconds
            room = room or int(shown.hit_share * len(candidates)) > len(holding)
            if room and candidates[other].load < candidates[target].load:
                return other, "replicate"
        lighter = [one for one in others if costs[target] > TH_BAL * costs[one]]
        if lighter:
            other = cheapest(lighter)
            if costs[target] - costs[other] > TH_BAL * candidates[other].prefill_seconds:
                return other, "rebalance"
    return target, "exploit"


@pytest.mark.parametrize("seed", range(400))
def test_what_is_not_asked_for_would_have_changed_nothing(seed: int):
    choose = random.Random(seed)
    scale = choose.choice([0.02, 0.2, 2.0])
    candidates = [
        Candidate(
            index,
            hit_tokens=choose.choice([0, 0, 512, 1536, 1984]),
            load=choose.choice([0.0, choose.random() * scale]),
            eviction=choose.choice([0.0, 0.0, choose.random() * 0.1]),
            evicted_blocks=choose.randrange(3),
            seconds_per_token=choose.choice([1e-4, 1e-4, 7e-5]),
            running=choose.choice([0, 0, choose.randrange(30)]),
        )
        for index in range(choose.randrange(1, 20))
    ]
    share = choose.choice([0.0, 0.0, choose.random()])
    shown = view(2048, *candidates, prefix_hash=seed, hit_share=share)
    assert tuple(E2().choose(shown)) == plain_e2(shown)


def test_only_a_rule_that_there_is_can_be_left_out():
    with pytest.raises(ValueError, match=r"no rule 'speed' to leave out .*crowding"):
        E2(without=["crowding", "speed"])


def test_without_restriction_a_cached_request_goes_wherever_it_costs_least():
    candidates = replicas(4, holding=[2], hit=2032)
    candidates[2].load = 1.0
    shown = view(2048, *candidates)

    assert chosen(E2(), shown) == (2, "exploit")
    assert chosen(E2(without=["restriction"]), shown)[1] == "explore"
