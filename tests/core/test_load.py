from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble_plugin.core.load import FULL_BATCH, ReplicaLoad
from preble_plugin.core.report import LoadReport
from preble_plugin.core.request import FirstToken
from preble_plugin.core.time_model import TimeModel


def load(max_running: int | None = None) -> ReplicaLoad:
    return ReplicaLoad(TimeModel(), window_seconds=180.0, max_running=max_running)


def first(load: ReplicaLoad, *request_ids: str, now: float, cached: int | None = None) -> None:
    load.first_token([FirstToken(each, cached) for each in request_ids], now)


def test_an_idle_replica_has_no_load():
    idle = load()

    assert (idle.load_seconds(5.0), idle.window_load_seconds(5.0), idle.decode_share(5.0)) == (
        0,
    ) * 3


def test_what_waits_is_priced_by_what_misses_and_by_its_expected_output():
    busy = load()
    busy.placed("a", 500, 2000, 40, now=10.0)

    model = busy.model
    assert busy.load_seconds(10.0) == pytest.approx(model.prefill_seconds(500, 2000))
    assert busy.decode_seconds_left() == pytest.approx(model.decode_seconds(40, 2000, FULL_BATCH))


def test_decode_is_shared_among_no_more_than_run_at_once():
    narrow = load(max_running=4)
    narrow.placed("a", 500, 2000, 40, now=10.0)

    assert narrow.decode_seconds_left() == pytest.approx(narrow.model.decode_seconds(40, 2000, 4))


def test_a_queue_is_the_sum_of_its_requests():
    busy = load()
    for number in range(5):
        busy.placed(str(number), 1000, 1500, 16, now=10.0)

    assert busy.load_seconds(10.0) == pytest.approx(5 * busy.model.prefill_seconds(1000, 1500))
    assert (busy.waiting, busy.running) == (5, 0)


def test_queued_tokens_are_those_to_compute_until_the_first_token_or_the_end():
    busy = load()
    for number in range(3):
        busy.placed(str(number), 100 * number, 1000, 16, now=10.0)
    assert busy.queued_tokens == 300
    first(busy, "1", now=10.1, cached=0)
    assert busy.queued_tokens == 200
    busy.drop("2", now=10.2)
    assert busy.queued_tokens == 0


def test_the_request_in_service_counts_less_as_it_is_served():
    busy = load()
    busy.placed("a", 5000, 5000, 16, now=10.0)
    whole = busy.load_seconds(10.0)

    assert busy.load_seconds(10.25) == pytest.approx(whole - 0.25)


def test_a_request_that_takes_longer_than_priced_counts_nothing_and_the_next_ones_wholly():
    busy = load()
    busy.placed("a", 5000, 5000, 16, now=10.0)
    busy.placed("b", 3000, 3000, 16, now=10.0)

    assert busy.load_seconds(100.0) == pytest.approx(busy.model.prefill_seconds(3000, 3000))


def test_a_time_before_the_placement_serves_nothing():
    busy = load()
    busy.placed("a", 5000, 5000, 16, now=10.0)

    assert busy.load_seconds(9.0) == busy.load_seconds(10.0)


def test_with_its_first_token_a_request_goes_from_waiting_to_running():
    busy = load()
    busy.placed("a", 500, 500, 16, now=10.0)
    first(busy, "a", now=10.1)

    assert (busy.waiting, busy.running, busy.load_seconds(10.1)) == (0, 1, 0.0)
    assert busy.decode_seconds_left() > 0.0


def test_the_head_that_is_dropped_leaves_the_next_unserved():
    busy = load()
    busy.placed("a", 5000, 5000, 16, now=10.0)
    busy.placed("b", 5000, 5000, 16, now=10.0)
    busy.drop("a", now=10.3)

    assert busy.load_seconds(10.3) == pytest.approx(busy.model.prefill_seconds(5000, 5000))


def test_a_request_that_finishes_with_its_first_token_is_done():
    busy = load()
    busy.placed("a", 500, 2000, 1, now=10.0)
    busy.finished("a", 1, now=10.5)

    assert (busy.waiting, busy.running, busy.load_seconds(10.5)) == (0, 0, 0.0)
    assert busy.window.mean_output_tokens(10.5) == 1


def test_a_request_that_fails_before_a_token_teaches_no_speed():
    busy = load()
    busy.placed("a", 500, 2000, 16, now=10.0)
    busy.finished("a", 0, now=19.0)
    busy.placed("b", 500, 2000, 16, now=20.0)

    assert busy.load_seconds(20.0) == TimeModel().prefill_seconds(500, 2000)


def test_unknown_requests_are_ignored():
    busy = load()
    busy.placed("a", 500, 2000, 16, now=10.0)
    before = busy.load_seconds(10.0)
    first(busy, "x", now=10.0)

    busy.finished("x", 5, now=10.0)

    assert not busy.drop("x", now=10.0)
    assert (busy.load_seconds(10.0), busy.waiting, busy.running) == (before, 1, 0)
    assert busy.window.mean_output_tokens(10.0) == 16


def test_a_second_first_token_of_a_request_changes_nothing():
    once, again = load(), load()
    for each in (once, again):
        each.placed("a", 500, 2000, 16, now=10.0)
    first(once, "a", now=10.5)
    first(again, "a", "a", now=10.5)
    first(again, "a", now=10.7)
    for each in (once, again):
        each.finished("a", 40, now=12.0)
        each.reported(LoadReport(13.0, 0, 0), 13.0)

    assert again.model.prefill_coefficients == once.model.prefill_coefficients
    assert again.model.decode_coefficients == once.model.decode_coefficients
    assert once.model.prefill_coefficients != TimeModel().prefill_coefficients


def test_an_id_placed_twice_is_in_flight_once():
    busy = load()
    busy.placed("a", 500, 2000, 16, now=10.0)
    busy.placed("a", 700, 2000, 16, now=11.0)

    assert busy.waiting == 1
    assert busy.load_seconds(11.0) == pytest.approx(busy.model.prefill_seconds(700, 2000))


def test_a_request_that_outlives_the_window_finishes_as_any_other():
    # PREBLE 6.5
    busy = load()
    busy.placed("a", 500, 2000, 16, now=10.0)
    first(busy, "a", now=10.5)
    assert busy.requests_in_window(1000.0) == 0
    assert busy.window_load_seconds(1000.0) == 0.0

    busy.finished("a", 4000, now=1000.0)

    assert (busy.load_seconds(1000.0), busy.running) == (0.0, 0)


def test_the_window_counts_work_that_is_done():
    busy = load()
    busy.placed("a", 500, 2000, 16, now=10.0)
    first(busy, "a", now=10.5)
    busy.finished("a", 40, now=11.0)

    model = busy.model
    assert busy.load_seconds(11.0) == 0.0
    assert busy.window_load_seconds(11.0) == pytest.approx(
        model.prefill_seconds(500, 2000) + model.decode_seconds(40, 2000, FULL_BATCH)
    )


def test_the_windows_decode_is_of_the_output_lengths_observed():
    # PREBLE 6.3: expected 16, observed 400
    busy = load()
    for request_id in ("a", "b"):
        busy.placed(request_id, 500, 2000, 16, now=10.0)
    expected = busy.window_load_seconds(10.0)
    busy.finished("a", 400, now=10.0)

    assert busy.window_load_seconds(10.0) - expected == pytest.approx(
        2 * (busy.model.decode_seconds(400, 2000, 32) - busy.model.decode_seconds(16, 2000, 32))
    )


def test_the_decode_share_tells_decoders_from_prefillers():
    decoder, prefiller = load(), load()
    decoder.placed("a", 16, 2000, 2000, now=10.0)
    prefiller.placed("a", 20_000, 20_000, 4, now=10.0)

    assert decoder.decode_share(10.0) > 0.95
    assert prefiller.decode_share(10.0) < 0.05


def test_a_served_queue_teaches_the_model_its_speed():
    busy, now, seconds_per_token = load(), 10.0, 1e-3  # ten times slower than the prior
    for number in range(60):
        busy.placed(str(number), 2000, 2000, 16, now)
        now += 2000 * seconds_per_token
        first(busy, str(number), now=now)
        busy.drop(str(number), now)

    assert busy.model.prefill_tokens_per_second == pytest.approx(1000, rel=0.1)


def test_the_model_learns_from_the_cache_that_the_engine_found():
    busy, now = load(), 10.0
    for number in range(60):
        busy.placed(str(number), 2000, 2000, 16, now)  # taken for a miss
        now += 0.1
        first(busy, str(number), now=now, cached=1000)
        busy.drop(str(number), now)

    assert busy.model.prefill_seconds(1000, 2000) == pytest.approx(0.1, rel=0.05)


def test_requests_that_decode_together_teach_the_model_their_step():
    busy, now, step = load(), 10.0, 0.05
    for round_ in range(40):
        ids = [f"{round_}-{number}" for number in range(8)]
        for request_id in ids:
            busy.placed(request_id, 100, 100, 41, now)
        now += 0.1
        first(busy, *ids, now=now)
        now += 40 * step
        for request_id in ids:
            busy.finished(request_id, 41, now)

    assert busy.model.decode_seconds(40, 100, 8) == pytest.approx(40 * step / 8, rel=0.15)
    assert TimeModel().decode_seconds(40, 100, 8) < 0.5 * 40 * step / 8


@given(st.randoms(use_true_random=False), st.integers(1, 120))
def test_whatever_happens_load_is_never_negative_and_drains_to_exactly_nothing(draw, steps):
    busy, now, flying = load(), 0.0, set()
    for number in range(steps):
        now += draw.choice([0.0, 1e-9, 0.003, 0.7, 500.0, -1.0])
        some = draw.choice(sorted(flying)) if flying else "unknown"
        match draw.randrange(5):
            case 0 | 1:
                busy.placed(
                    str(number),
                    draw.randint(-5, 10**6),
                    draw.randint(-5, 10**6),
                    draw.randint(-5, 10**5),
                    now,
                )
                flying.add(str(number))
            case 2:
                first(busy, some, "unknown", now=now, cached=draw.choice([None, -3, 7, 10**9]))
            case 3:
                busy.finished(some, draw.randint(-3, 10**5), now)
                flying.discard(some)
            case _:
                busy.drop(some, now)
                flying.discard(some)
        assert busy.load_seconds(now) >= 0.0
        assert busy.decode_seconds_left() >= 0.0
        assert 0.0 <= busy.decode_share(now) <= 1.0
        assert busy.waiting + busy.running == busy.in_flight == len(flying)
    for request_id in flying:
        busy.drop(request_id, now)

    assert (busy.load_seconds(now), busy.in_flight) == (0.0, 0)
    assert busy.window_load_seconds(now + 10_000.0) == 0.0


def test_many_requests_leave_nothing_behind():
    busy, draw, now = load(), random.Random(1), 0.0
    for number in range(20_000):
        now += 0.01
        busy.placed(str(number), draw.randint(1, 4000), 4000, draw.randint(1, 300), now)
        first(busy, str(number - 5), now=now)
        busy.finished(str(number - 50), draw.randint(1, 300), now)
    for number in range(19_950, 20_000):
        busy.drop(str(number), now)

    assert (busy.load_seconds(now), busy.waiting, busy.running) == (0.0, 0, 0)
    assert busy.requests_in_window(now) == pytest.approx(18_000, rel=0.02)


def test_a_prompt_that_another_server_computes_is_no_prefill_and_teaches_decode_alone():
    fetching, now, step = load(), 10.0, 0.05
    before = fetching.model.prefill_seconds(500, 2000)
    for number in range(40):
        fetching.resumed(f"{number}", 2000, 41, now)
        assert (fetching.load_seconds(now), fetching.queued_tokens) == (0.0, 0)
        now += 9.0
        first(fetching, f"{number}", now=now, cached=0)
        now += 40 * step
        fetching.finished(f"{number}", 41, now)

    assert fetching.model.prefill_seconds(500, 2000) == before
    assert fetching.model.decode_seconds(40, 2000, 1) == pytest.approx(40 * step, rel=0.15)
    assert TimeModel().decode_seconds(40, 2000, 1) < 0.5 * 40 * step


def test_a_first_token_told_late_frees_the_prefill_and_teaches_nothing():
    told_late, untouched = load(), load()
    told_late.placed("a", 500, 2000, 40, now=10.0)
    told_late.first_token([FirstToken("a", 1500, timed=False)], 60.0)

    assert (told_late.load_seconds(60.0), told_late.running) == (0.0, 1)

    told_late.finished("a", 40, 60.0)
    told_late.placed("b", 500, 2000, 40, now=70.0)
    untouched.placed("b", 500, 2000, 40, now=70.0)
    assert told_late.load_seconds(70.0) == untouched.load_seconds(70.0)


# -- what is loaded from slower media ----------------------------------------------------

LAW = (0.01, 1e-4)
"""Seconds per request and new token."""


def taught() -> ReplicaLoad:
    """A replica that computes by `LAW`."""
    served = load()
    for number in range(200):
        new, cached = 100 + number * 37 % 1900, number * 53 % 4000
        served.placed("a", new, new + cached, 1, now=10.0 * number)
        first(served, "a", now=10.0 * number + LAW[0] + LAW[1] * new, cached=cached)
        served.finished("a", 1, now=10.0 * number + 5.0)
    return served


def loading(
    served: ReplicaLoad, now: float, cached: int | None, *loads: tuple[str, int], seconds: float
) -> None:
    """A prompt of 2,000 tokens, 500 of them on the GPU, and what `loads` lists."""
    hit = 500 + sum(tokens for _, tokens in loads)
    served.placed("b", 2000 - hit, 2000, 1, now, hit, loads)
    first(served, "b", now=now + seconds, cached=cached)
    served.finished("b", 1, now=now + 5.0)


@pytest.mark.parametrize("cached", [1500, None])
def test_first_tokens_teach_what_a_load_costs_and_not_what_computing_does(cached):
    served = taught()
    before = served.model.prefill_coefficients
    for number in range(40):
        spent = LAW[0] + LAW[1] * 500 + 2e-5 * 1000
        loading(served, 5000.0 + 10 * number, cached, ("CPU", 1000), seconds=spent)
    assert served.model.load_share("CPU", 2000) == pytest.approx(0.2, rel=0.1)
    assert served.model.prefill_coefficients == before


def test_a_load_that_the_engine_found_a_part_of_counts_for_that_part():
    served = taught()
    for number in range(40):
        spent = LAW[0] + LAW[1] * 1100 + 2e-5 * 400
        loading(served, 5000.0 + 10 * number, 900, ("CPU", 1000), seconds=spent)
    assert served.model.load_share("CPU", 2000) == pytest.approx(0.2, rel=0.2)


def test_a_load_that_the_engine_did_not_find_teaches_what_computing_costs():
    served = taught()
    before = served.model.prefill_coefficients
    for number in range(8):
        loading(served, 5000.0 + 10 * number, 500, ("CPU", 1000), seconds=0.5)
    assert served.model.load_share("CPU", 2000) == 0.25
    assert served.model.prefill_coefficients != before


def test_loads_from_several_media_at_once_teach_nothing():
    served = taught()
    before = served.model.prefill_coefficients
    loading(served, 5000.0, 1500, ("CPU", 600), ("DISK", 400), seconds=0.5)
    loading(served, 5020.0, 1500, ("CPU", 600), ("DISK", 400), seconds=0.5)
    assert [served.model.load_share(one, 2000) for one in ("CPU", "DISK")] == [0.25, 0.25]
    assert served.model.prefill_coefficients == before
