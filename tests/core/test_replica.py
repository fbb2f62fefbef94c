from __future__ import annotations

import pytest
from builders import BLOCK, hold, place, prompt, scheduler, serve, view

from preble_plugin.core import Finished, FirstToken, LoadReport, Scheduler


@pytest.mark.parametrize(
    ("tokens", "evicted"),
    [(10 * BLOCK, 0), (10 * BLOCK + 1, 1), (11 * BLOCK, 1), (12 * BLOCK + 3, 3), (0, 0)],
)
def test_room_is_made_for_the_blocks_beyond_those_that_are_free(tokens, evicted):
    made = scheduler(1, capacity=50)
    hold(made, 0, prompt(1, 40))
    assert view(made, prompt(2, 0, tokens)).candidates[0].evicted_blocks == evicted


def test_in_a_cache_that_holds_more_than_it_should_all_has_to_be_made_room_for():
    made = scheduler(1, capacity=30)
    hold(made, 0, prompt(1, 40))
    assert view(made, prompt(2, 7)).candidates[0].evicted_blocks == 7


def test_predicted_hits_are_audited_by_the_engines_own_count():
    made = scheduler(1)
    hold(made, 0, prompt(1, 20))
    for name, found in [("exact", 20 * BLOCK), ("less", 12 * BLOCK), ("silent", None)]:
        place(made, name, prompt(1, 20, extra=3))
        made.observe(0, [FirstToken(name, found)], 0.1)
    status = made.status(0.1).replicas[0]
    assert (status.audited_requests, status.exact_audits, status.placements) == (2, 1, 3)
    assert (status.predicted_cached_tokens, status.actual_cached_tokens) == (640, 512)


def test_the_status_counts_blocks_and_work():
    made = scheduler(2, capacity=90)
    hold(made, 0, prompt(1, 20))
    place(made, "waits", prompt(2, 30), fixed_replica=0)
    status, idle = made.status(0.0).replicas
    shown = view(made, prompt(3, 1)).candidates[0]
    assert (status.resident_blocks, status.expected_blocks, status.capacity_blocks) == (20, 30, 90)
    assert (status.running, status.queued_prefill_seconds) == (1, shown.load_seconds)
    assert status.queued_decode_seconds == pytest.approx(
        made._replicas[0].model.decode_seconds(256, 480, 32)
    )
    assert (idle.resident_blocks, idle.expected_blocks, idle.running) == (0, 0, 0)
    assert 8_000 < idle.prefill_tokens_per_second < 10_000


def lost(made: Scheduler, *reports: LoadReport) -> list[str]:
    return [name for report in reports for name in made.report(0, report, report.as_of)]


def idle(as_of: float, **sums: float) -> LoadReport:
    return LoadReport(as_of, 0, 0, **sums)  # type: ignore[arg-type]


def test_a_report_that_is_not_newer_proves_nothing_and_teaches_nothing():
    made = scheduler(1)
    place(made, "a", prompt(1, 4), 0.0)
    assert lost(made, idle(2.0), idle(2.0), idle(1.5)) == []
    assert lost(made, idle(3.0)) == ["a"]
    assert made.status(3.0).replicas[0].lost_requests == 1


def test_requests_are_expected_to_produce_what_those_before_them_did():
    made = scheduler(1)
    for number in range(5):
        serve(made, str(number), prompt(number, 2), float(number))  # 4 tokens each
    place(made, "next", prompt(9, 2), 9.0)
    model = made._replicas[0].model
    left = made.status(9.0).replicas[0].queued_decode_seconds
    assert left == pytest.approx(model.decode_seconds(4, 32, 32))
    made.observe(0, [Finished("next", 0, aborted=True)], 9.0)
    place(made, "bounded", prompt(9, 2), 9.0, max_output_tokens=2)
    left = made.status(9.0).replicas[0].queued_decode_seconds
    assert left == pytest.approx(model.decode_seconds(2, 32, 32))


def test_an_aborted_request_says_nothing_of_the_length_of_answers():
    made = scheduler(1)
    place(made, "a", prompt(1, 2))
    made.observe(0, [FirstToken("a", None, timed=False), Finished("a", 3, aborted=True)], 0.0)
    place(made, "b", prompt(1, 2))
    left = made.status(0.0).replicas[0].queued_decode_seconds
    assert left == pytest.approx(made._replicas[0].model.decode_seconds(256, 32, 32))


def test_decode_is_shared_by_as_many_as_the_engine_runs():
    made = scheduler(1)
    place(made, "a", prompt(1, 2))
    made.add_replica(0, max_running=4)
    left = made.status(0.0).replicas[0].queued_decode_seconds
    assert left == pytest.approx(made._replicas[0].model.decode_seconds(256, 32, 4))
