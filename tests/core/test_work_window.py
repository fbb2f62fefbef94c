from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble_plugin.core.time_model import TimeModel
from preble_plugin.core.work_window import WorkWindow


def test_work_is_prefill_of_what_missed_and_decode_of_the_mean_output():
    # PREBLE 3.2 and 6.3: the observed output length, for every request of the window.
    model, window = TimeModel(), WorkWindow(180.0)
    window.assigned(100, 1000, 256, now=10.0)
    window.assigned(2000, 2000, 256, now=20.0)
    window.finished(30, now=25.0)
    window.finished(50, now=26.0)

    assert window.prefill_seconds(model, 30.0) == pytest.approx(
        model.prefill_seconds(100, 1000) + model.prefill_seconds(2000, 2000)
    )
    assert window.decode_seconds(model, 8, 30.0) == pytest.approx(
        2 * model.decode_seconds(40, 1500, 8)
    )


def test_before_any_output_the_expected_length_counts():
    window = WorkWindow(180.0)
    window.assigned(100, 100, 16, now=0.0)
    window.assigned(100, 100, 48, now=0.0)

    assert window.mean_output_tokens(1.0) == 32


def test_an_empty_window_has_no_work():
    window = WorkWindow(180.0)

    assert (window.requests(5.0), window.decode_seconds(TimeModel(), 8, 5.0)) == (0, 0.0)


def test_work_leaves_when_the_window_has_passed():
    window = WorkWindow(180.0)
    window.assigned(100, 100, 16, now=1000.0)

    assert [window.requests(now) for now in (1000.0, 1176.0, 1181.0)] == [1, 1, 0]
    assert window.prefill_seconds(TimeModel(), 1181.0) == 0.0


def test_a_finish_after_the_window_of_its_request_is_nothing_special():
    window = WorkWindow(180.0)
    window.assigned(100, 100, 16, now=0.0)
    window.finished(500, now=1000.0)

    assert (window.requests(1000.0), window.mean_output_tokens(1000.0)) == (0, 500)


@given(st.lists(st.tuples(st.floats(-500, 500), st.integers(0, 10**6)), max_size=60))
def test_what_is_counted_was_assigned_within_the_window(steps):
    window, now, newest, assigned = WorkWindow(60.0), 0.0, 0.0, []
    for step, new in steps:
        now = max(now + step, 0.0)
        newest = max(newest, now)
        window.assigned(new, new + 1, 1, now)
        assigned.append(newest)

    count = window.requests(newest)
    assert sum(newest - at < 58.9 for at in assigned) <= count
    assert count <= sum(newest - at <= 60.1 for at in assigned)
    window.assigned(1, 1, 1, newest + 1000.0)
    assert window.requests(newest + 1000.0) == 1
    assert window.requests(newest + 2000.0) == 0
    assert window.prefill_seconds(TimeModel(), newest + 2000.0) == 0.0
