from __future__ import annotations

import numpy as np
import pytest

from preble_plugin.sim.arrivals import AZURE_TRACES, AzureTrace, at_rate, azure, poisson


def test_poisson_times_are_in_order_and_meet_the_rate() -> None:
    times = poisson(2000, 8.0, seed=1)

    assert len(times) == 2000
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    assert times[-1] == pytest.approx(2000 / 8.0, rel=0.01)


def test_poisson_gaps_are_as_wide_as_they_deviate() -> None:
    gaps = np.diff(poisson(20_000, 1.0, seed=2))

    assert gaps.mean() == pytest.approx(1.0, rel=0.02)
    assert gaps.std() == pytest.approx(1.0, rel=0.05)


def test_times_are_decided_by_the_seed_and_the_kind() -> None:
    again = poisson(50, 2.0, seed=3, kind="tool")

    assert (poisson(50, 2.0, seed=3, kind="tool") == again).all()
    assert (poisson(50, 2.0, seed=4, kind="tool") != again).any()
    assert (poisson(50, 2.0, seed=3, kind="video") != again).any()


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_a_rate_that_cannot_be_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate must be above 0"):
        poisson(10, rate, seed=1)
    with pytest.raises(ValueError, match="rate must be above 0"):
        at_rate(np.array([0.0, 1.0]), rate)


@pytest.mark.parametrize(("trace", "requests", "seconds"), [
    ("code", 8819, 3435.948056), ("conversation", 19366, 3501.721937),
])  # fmt: skip
def test_azure_times_are_an_hour_in_order(trace: AzureTrace, requests: int, seconds: float) -> None:
    times = azure(trace)

    assert len(times) == requests
    assert (np.diff(times) >= 0).all()
    assert times[-1] - times[0] == pytest.approx(seconds)


def test_both_azure_traces_count_from_the_same_moment() -> None:
    # 18:15:46.68059 and 18:17:03.97996 in the sources.
    assert {trace: azure(trace)[0] for trace in AZURE_TRACES} == {
        "code": pytest.approx(77.29937),
        "conversation": 0.0,
    }


def test_azure_times_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        azure("code")[0] = 1.0


def test_scaling_keeps_the_shape_and_meets_the_rate() -> None:
    scaled = at_rate(np.array([10.0, 11.0, 11.0, 14.0]), rate=6.0)

    # 3 gaps at 6 requests/s: half a second, in proportion 1 : 0 : 3.
    assert scaled.tolist() == pytest.approx([0.0, 0.125, 0.125, 0.5])


def test_scaling_counts_the_requests_that_sessions_stand_for() -> None:
    scaled = at_rate(np.array([0.0, 1.0, 2.0]), rate=1.0, requests=30)

    assert scaled.tolist() == pytest.approx([0.0, 10.0, 20.0])


def test_equal_times_have_no_rate_to_scale() -> None:
    with pytest.raises(ValueError, match="leave the rate out"):
        at_rate(np.array([5.0, 5.0]), 1.0)


@pytest.mark.parametrize("times", [[], [7.0]])
def test_one_request_or_none_needs_no_scaling(times: list[float]) -> None:
    assert at_rate(np.array(times), 1.0).tolist() == [0.0] * len(times)
