from __future__ import annotations

import pytest
from played_replica import PlayedReplica

from preble_plugin.core.load import ReplicaLoad
from preble_plugin.core.report import LoadReport, Stillness
from preble_plugin.core.time_model import TimeModel


def idle(as_of: float, prefill_tokens: int = 500, decode_steps: int = 20) -> LoadReport:
    return LoadReport(as_of, 0, 0, prefill_tokens=prefill_tokens, decode_steps=decode_steps)


def proofs(placed_at: float, *reports: LoadReport) -> list[bool]:
    """What each report proves of a request placed then."""
    stillness = Stillness()
    return [stillness.proves(report, lambda: placed_at) for report in reports]


@pytest.mark.parametrize("field", ["as_of", "prefill_seconds", "decode_seconds"])
@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), float("-inf")])
def test_seconds_that_are_no_number_are_refused_by_name(field, seconds):
    with pytest.raises(ValueError, match=f"{field} takes a finite number of seconds"):
        LoadReport(**{"as_of": 1.0, "running": 0, "waiting": 0, field: seconds})


@pytest.mark.parametrize(("running", "waiting"), [(1, 0), (0, 1)])
def test_an_engine_that_has_a_request_is_not_idle(running, waiting):
    assert not LoadReport(5.0, running, waiting).idle


@pytest.mark.parametrize(
    "later",
    [
        LoadReport(6.0, 0, 0, 4, 1.0, 5, 50, 1.0),
        LoadReport(6.0, 0, 0, 5, 0.9, 5, 50, 1.0),
        LoadReport(6.0, 0, 0, 5, 1.0, 4, 50, 1.0),
        LoadReport(6.0, 0, 0, 5, 1.0, 5, 49, 1.0),
        LoadReport(6.0, 0, 0, 5, 1.0, 5, 50, 0.9),
    ],
)
def test_a_sum_that_falls_is_that_of_an_engine_that_began_anew(later):
    earlier = LoadReport(5.0, 0, 0, 5, 1.0, 5, 50, 1.0)
    assert later.began_anew(earlier)
    assert not earlier.began_anew(earlier)


def test_an_engine_that_is_idle_and_stays_so_has_lost_its_request():
    assert proofs(10.0, idle(11.5), idle(12.0), idle(12.6)) == [False, False, True]


def test_what_was_idle_before_the_placement_proves_nothing_after_it():
    assert proofs(10.0, idle(5.0), idle(9.0), idle(14.0)) == [False] * 3


def test_a_request_just_placed_may_be_on_its_way():
    assert proofs(10.0, idle(10.2), idle(10.6), idle(10.9)) == [False] * 3


def test_an_engine_that_computed_between_two_idle_reports_was_at_work():
    assert proofs(10.0, idle(12.0), idle(14.0, prefill_tokens=600)) == [False] * 2
    assert proofs(10.0, idle(12.0), idle(14.0, decode_steps=21)) == [False] * 2


def test_after_a_busy_report_stillness_begins_again():
    busy = LoadReport(13.0, 1, 0, prefill_tokens=500, decode_steps=20)
    assert proofs(10.0, idle(12.0), busy, idle(13.5), idle(14.6)) == [False, False, False, True]


def test_a_later_placement_begins_the_wait_again():
    stillness = Stillness()
    placed = [10.0]
    answers = []
    for as_of in (11.5, 12.0, 12.6, 14.0, 14.5, 15.1):
        answers.append(stillness.proves(idle(as_of), lambda: placed[-1]))
        if as_of == 12.0:
            placed.append(12.1)
    assert answers == [False, False, False, False, False, True]


@pytest.mark.parametrize("chunk", [256, 2048, 1 << 20])
@pytest.mark.parametrize("slowness", [1.0, 30.0])
def test_an_engine_at_work_is_never_taken_to_be_still(chunk, slowness):
    """Its reports leave the requests of the step under way out."""
    played = PlayedReplica(ReplicaLoad(TimeModel()), chunk=chunk)
    played.slowness = slowness
    played.serve(60, per_second=0.5 / slowness)
    assert played.reports > 100
    assert played.wrongly_still == 0
