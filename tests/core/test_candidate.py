"""Each number of a candidate, against sums over the requests on its replica."""

from __future__ import annotations

import pytest
from builders import BLOCK, decode, hold, place, prompt, scheduler, use, view, wait

from preble_plugin.core import Finished, FirstToken, Scheduler, Trust
from preble_plugin.core.candidate import ReplicaCandidate
from preble_plugin.core.time_model import TimeModel

PREFILL = TimeModel().prefill_seconds
DECODE = TimeModel().decode_seconds


def candidate(made: Scheduler, tokens: list[int], now: float = 0.0) -> ReplicaCandidate:
    return view(made, tokens, now).candidates[0]


def test_p_is_the_prefill_of_what_misses_beside_what_is_cached():
    made = scheduler(1)
    hold(made, 0, prompt(1, 20))
    one = candidate(made, prompt(1, 20) + prompt(2, 30))
    assert (one.hit_tokens, one.miss_tokens) == (20 * BLOCK, 30 * BLOCK)
    assert one.prefill_seconds == pytest.approx(PREFILL(30 * BLOCK, 50 * BLOCK))


def test_l_is_the_prefill_of_those_that_wait_less_what_the_first_was_served():
    made = scheduler(1)
    decode(made, 0, 3, 900)
    for tokens in (1000, 3000, 200):
        wait(made, 0, tokens)
    whole = sum(PREFILL(tokens, tokens) for tokens in (1000, 3000, 200))
    assert candidate(made, prompt(1, 2)).load_seconds == pytest.approx(whole)
    assert candidate(made, prompt(1, 2), 0.05).load_seconds == pytest.approx(whole - 0.05)


def test_requests_and_tokens_in_flight_are_those_placed_and_not_ended():
    made = scheduler(1)
    names = decode(made, 0, 3, 100)
    wait(made, 0, 70)
    wait(made, 0, 30)
    one = candidate(made, prompt(1, 2))
    assert (one.waiting, one.running, one.queued_tokens, one.tokens_in_flight) == (2, 3, 100, 400)
    made.observe(0, [Finished(names[0], 5)], 1.0)
    one = candidate(made, prompt(1, 2), 1.0)
    assert (one.waiting, one.running, one.queued_tokens, one.tokens_in_flight) == (2, 2, 100, 300)


def test_only_what_misses_is_queued():
    made = scheduler(1)
    hold(made, 0, prompt(1, 20))
    place(made, "cached", prompt(1, 20, extra=9))
    one = candidate(made, prompt(2, 2))
    assert (one.queued_tokens, one.tokens_in_flight) == (9, 20 * BLOCK + 9)


def test_the_window_load_is_prefill_and_decode_of_all_that_was_assigned():
    made = scheduler(1)
    for number, output in enumerate((100, 300)):
        place(made, str(number), prompt(number, 50))
        made.observe(0, [FirstToken(str(number), None, timed=False)], 0.0)
        made.observe(0, [Finished(str(number), output)], 0.0)
    one = candidate(made, prompt(9, 2))
    prefill, decoding = 2 * PREFILL(800, 800), 2 * DECODE(200, 800, 32)
    assert one.window_load_seconds == pytest.approx(prefill + decoding)
    assert one.decode_share == pytest.approx(decoding / (prefill + decoding))


def test_the_window_is_as_long_as_it_was_set():
    made = scheduler(1, window_seconds=60.0)
    decode(made, 0, 2, 500)
    assert candidate(made, prompt(1, 2), 50.0).window_load_seconds > 0.0
    assert candidate(made, prompt(1, 2), 70.0).window_load_seconds == 0.0


@pytest.mark.parametrize(("capacity", "usage"), [(100, 0.3), (20, 1.0), (None, 0.0)])
def test_cache_usage_is_the_share_that_prompts_in_flight_fill_each_block_once(capacity, usage):
    made = scheduler(1, capacity=capacity)
    for name in "ab":
        place(made, name, prompt(1, 25))
    place(made, "c", prompt(2, 5))
    one = candidate(made, prompt(3, 2))
    assert (one.active_blocks, one.cache_usage) == (30, pytest.approx(usage))


def test_the_costs_of_one_decision_do_not_move_with_what_comes_after():
    made = scheduler(1, capacity=40)
    hold(made, 0, prompt(1, 40))
    use(made, 0, prompt(1, 40, extra=1), 1.0)
    one = candidate(made, prompt(2, 20), 2.0)
    costs = one.load_seconds, one.prefill_seconds, one.eviction_seconds
    wait(made, 0, 3000, 2.0)
    assert (one.load_seconds, one.prefill_seconds, one.eviction_seconds) == costs
    assert costs[2] == pytest.approx(PREFILL(640, 640))


def test_a_receipt_has_the_costs_that_were_asked_for():
    made = scheduler(2, policy="min-ttft")
    made.set_trust(1, Trust.GAPPED)
    hold(made, 1, prompt(1, 10))
    wait(made, 0, 700)
    place(made, "asked", prompt(1, 12))
    (receipt,) = made.explain("asked")
    first, second = receipt.candidates
    assert (first.replica, first.hit_tokens, first.trust) == (0, 0, Trust.EXACT)
    assert (second.replica, second.hit_tokens, second.trust) == (1, 10 * BLOCK, Trust.GAPPED)
    assert (first.load_seconds, second.load_seconds) == (pytest.approx(PREFILL(700, 700)), 0.0)
    assert second.prefill_seconds == pytest.approx(PREFILL(32, 192))
    assert (first.eviction_seconds, first.in_flight) == (None, 1)
