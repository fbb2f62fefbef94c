from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble_plugin.sim.figures import LOAD_POINTS, figures
from preble_plugin.sim.fleet import Fleet, Served
from preble_plugin.sim.hardware import load_hardware
from preble_plugin.sim.workloads import make


def one(
    arrived: float,
    ended: float,
    *,
    first_token: float | None = None,
    replica: int = 0,
    prompt_tokens: int = 100,
    cached_tokens: int = 0,
    predicted_tokens: int = 0,
    output_tokens: int = 1,
    branch: str = "exploit",
) -> Served:
    return Served(
        request_id=f"{replica}-{arrived}",
        replica=replica,
        branch=branch,
        arrived=arrived,
        first_token=ended if first_token is None else first_token,
        ended=ended,
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        predicted_tokens=predicted_tokens,
        output_tokens=output_tokens,
    )


def test_times_are_those_of_the_requests() -> None:
    served = [one(at, at + 1 + at, first_token=at + 1) for at in range(101)]
    found = figures(served, 1, warm_up=0)
    assert (found.mean_ttft, found.p50_ttft, found.p99_ttft) == (1, 1, 1)
    assert (found.mean_latency, found.p50_latency) == (51, 51)
    assert found.p99_latency == pytest.approx(100)


def test_the_first_to_arrive_warm_up_and_do_not_count() -> None:
    slow_start = [one(0, 50, cached_tokens=0), one(1, 2, cached_tokens=100)]
    found = figures(slow_start, 1, warm_up=0.5)
    assert (found.requests, found.counted) == (2, 1)
    assert found.mean_latency == 1
    assert found.cached_share == 1


def test_the_share_from_cache_is_of_tokens() -> None:
    served = [one(0, 1, prompt_tokens=300, cached_tokens=300), one(1, 2, prompt_tokens=100)]
    assert figures(served, 1, warm_up=0).cached_share == 0.75


def test_predictions_that_came_true_are_counted() -> None:
    served = [
        one(0, 1, cached_tokens=16, predicted_tokens=16),
        one(1, 2, cached_tokens=16, predicted_tokens=32),
    ]
    assert figures(served, 1, warm_up=0).exact_predictions == 0.5


def test_time_per_output_token_begins_with_the_first() -> None:
    served = [one(0, 10, first_token=8, output_tokens=5), one(1, 9, output_tokens=1)]
    assert figures(served, 1, warm_up=0).mean_time_per_output_token == 0.5


def test_answers_of_one_token_have_no_time_per_output_token() -> None:
    assert figures([one(0, 1)], 1, warm_up=0).mean_time_per_output_token is None


def test_rates_are_over_the_time_that_counts() -> None:
    served = [one(at, at + 1.0, output_tokens=8) for at in range(5)]
    found = figures(served, 1, warm_up=0)
    assert found.seconds == 5
    assert found.arrivals_per_second == 1
    assert found.output_tokens_per_second == 8


def test_a_replica_is_busy_while_it_has_a_request() -> None:
    served = [one(0, 4), one(1, 2), one(6, 10), one(0, 5, replica=1)]
    found = figures(served, 3, warm_up=0)
    assert found.busy_shares == pytest.approx([0.8, 0.5, 0])
    assert found.mean_in_flight == pytest.approx([0.9, 0.5, 0])
    assert found.replica_requests == [3, 1, 0]


def test_a_request_of_the_warm_up_still_loads_its_replica() -> None:
    found = figures([one(0, 6), one(2, 4, replica=1)], 2, warm_up=0.5)
    assert found.seconds == 2
    assert found.busy_shares == pytest.approx([1, 1])


def test_spread_is_the_most_less_the_least_of_the_mean() -> None:
    even = [one(0, 10), one(0, 10, replica=1)]
    uneven = [one(0, 10), one(0, 5, replica=1)]
    assert figures(even, 2, warm_up=0).spread == pytest.approx(0)
    assert figures(uneven, 2, warm_up=0).spread == pytest.approx(0.5 / 0.75)


def test_branches_are_counted() -> None:
    served = [one(0, 1), one(1, 2, branch="explore"), one(2, 3)]
    assert figures(served, 1, warm_up=0).branches == {"exploit": 2, "explore": 1}


intervals = st.lists(
    st.tuples(st.floats(0, 100), st.floats(0.1, 50), st.integers(0, 2)), min_size=1, max_size=30
)


@given(intervals)
def test_load_over_time_adds_up_to_the_time_of_the_requests(
    drawn: list[tuple[float, float, int]],
) -> None:
    served = [one(at, at + long, replica=replica) for at, long, replica in drawn]
    load = figures(served, 3, warm_up=0).load
    for replica, row in enumerate(load.in_flight):
        spent = sum(long for _, long, where in drawn if where == replica)
        assert len(row) == LOAD_POINTS
        # Each point is rounded to a thousandth of a request.
        rounding = 0.0006 * LOAD_POINTS * load.every_seconds
        assert sum(row) * load.every_seconds == pytest.approx(spent, abs=rounding)


@given(intervals)
def test_busy_seconds_are_those_of_a_walk_along_the_requests(
    drawn: list[tuple[float, float, int]],
) -> None:
    served = [one(at, at + long, replica=replica) for at, long, replica in drawn]
    found = figures(served, 3, warm_up=0)
    for replica, share in enumerate(found.busy_shares):
        here = [each for each in served if each.replica == replica]
        assert share * found.seconds == pytest.approx(walked(here), abs=1e-6)


def walked(served: Sequence[Served]) -> float:
    busy, until = 0.0, 0.0
    for each in sorted(served, key=lambda each: each.arrived):
        busy += max(each.ended - max(each.arrived, until), 0)
        until = max(until, each.ended)
    return busy


def test_busy_shares_are_what_the_replicas_say_of_themselves() -> None:
    fleet = Fleet(load_hardware("mistral-7b-a6000"), 3, "e2")
    served = list(fleet.serve(make("tool", requests=200, rate=10, seed=1)))
    found = figures(served, 3, warm_up=0)
    assert [share * found.seconds for share in found.busy_shares] == pytest.approx(
        [replica.busy_seconds for replica in fleet.replicas]
    )


def test_nothing_served_has_no_figures() -> None:
    with pytest.raises(ValueError, match="no request was served"):
        figures([], 2)


@pytest.mark.parametrize("share", [-0.1, 1, float("nan")])
def test_a_warm_up_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="from 0 to below 1"):
        figures([one(0, 1)], 1, warm_up=share)
