"""From the requests that were served to the figures that are shown.

1. The first share of the requests, by arrival, warms the caches up and does not count.
2. What counts is measured from the first arrival that counts to the last end.
3. A replica's *load* is the requests on it, waiting or running. It is busy while
   there is one.

All is computed from `Served` alone, so that a record of a real server can be shown
by the same figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import floor
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from preble_plugin.sim.fleet import Served

WARM_UP: Final = 0.1
"""Share of the requests, by arrival, that does not count unless one says otherwise."""

LOAD_POINTS: Final = 120

Seconds = NDArray[np.float64]


class LoadOverTime(msgspec.Struct, frozen=True):
    """Requests on each replica, from the first arrival on."""

    every_seconds: float
    in_flight: list[list[float]]
    """A row a replica: the mean over each interval of `every_seconds`."""


class Figures(msgspec.Struct, frozen=True):
    """One run in numbers. Times in seconds; shares from 0 to 1."""

    requests: int
    """All that were served."""
    counted: int
    """Those after the warm-up; all that follows is of these."""
    seconds: float
    """From the first arrival that counts to the last end."""
    arrivals_per_second: float
    mean_ttft: float
    p50_ttft: float
    p99_ttft: float
    mean_latency: float
    p50_latency: float
    p99_latency: float
    mean_time_per_output_token: float | None
    """After the first token, the mean of the requests; None where all answer one token."""
    output_tokens_per_second: float
    cached_share: float
    """Prompt tokens found in a cache, of all prompt tokens."""
    exact_predictions: float
    """Requests for which the policy predicted just the cached tokens there were."""
    branches: dict[str, int]
    """Requests by the policy's own word for why it placed them."""
    replica_requests: list[int]
    busy_shares: list[float]
    """Of the seconds, those in which a replica had something to do."""
    mean_in_flight: list[float]
    """Requests on each replica, on average over the seconds."""
    spread: float
    """Of `mean_in_flight`: the highest less the lowest, over their mean. 0 is even."""
    load: LoadOverTime
    """Of all requests, the warm-up included."""


def figures(served: Iterable[Served], replicas: int, warm_up: float = WARM_UP) -> Figures:
    """Sum up a run on `replicas` replicas, without its first requests, the share
    `warm_up` of all. O(n log n).

    Raises ValueError where nothing was served, and for a share outside [0, 1).
    """
    if not 0 <= warm_up < 1:
        raise ValueError(f"the share of requests that warm up is from 0 to below 1, got {warm_up}")
    everything = sorted(served, key=lambda one: one.arrived)
    if not everything:
        raise ValueError("no request was served")
    counted = everything[floor(warm_up * len(everything)) :]
    arrived = np.array([one.arrived for one in counted])
    ended = np.array([one.ended for one in counted])
    ttft = np.array([one.first_token for one in counted]) - arrived
    latency = ended - arrived
    begin, end = float(arrived[0]), float(ended.max())
    seconds = end - begin
    every = (end - everything[0].arrived) / LOAD_POINTS
    whole = np.linspace(everything[0].arrived, end, LOAD_POINTS + 1)
    busy, mean_in_flight, over_time = [], [], []
    for replica in range(replicas):
        here = [one for one in everything if one.replica == replica]
        came = np.array([one.arrived for one in here])
        went = np.sort([one.ended for one in here])
        work = np.diff(_request_seconds(came, went, whole)) / every
        over_time.append([round(float(value), 3) for value in work])
        first, last = _request_seconds(came, went, np.array([begin, end]))
        mean_in_flight.append(float(last - first) / seconds)
        busy.append(_busy_seconds(came, went, begin, end) / seconds)
    mean = sum(mean_in_flight) / replicas
    counts = Counter(one.replica for one in counted)
    prompt_tokens = sum(one.prompt_tokens for one in counted)
    gaps = max(len(counted) - 1, 1)
    return Figures(
        requests=len(everything),
        counted=len(counted),
        seconds=seconds,
        arrivals_per_second=gaps / float(arrived[-1] - begin) if arrived[-1] > begin else 0.0,
        mean_ttft=float(ttft.mean()),
        p50_ttft=float(np.percentile(ttft, 50)),
        p99_ttft=float(np.percentile(ttft, 99)),
        mean_latency=float(latency.mean()),
        p50_latency=float(np.percentile(latency, 50)),
        p99_latency=float(np.percentile(latency, 99)),
        mean_time_per_output_token=_time_per_output_token(counted),
        output_tokens_per_second=sum(one.output_tokens for one in counted) / seconds,
        cached_share=sum(one.cached_tokens for one in counted) / prompt_tokens,
        exact_predictions=sum(one.predicted_tokens == one.cached_tokens for one in counted)
        / len(counted),
        branches=dict(sorted(Counter(one.branch for one in counted).items())),
        replica_requests=[counts[replica] for replica in range(replicas)],
        busy_shares=busy,
        mean_in_flight=mean_in_flight,
        spread=(max(mean_in_flight) - min(mean_in_flight)) / mean,
        load=LoadOverTime(every, over_time),
    )


def _time_per_output_token(counted: Sequence[Served]) -> float | None:
    times = [
        (one.ended - one.first_token) / (one.output_tokens - 1)
        for one in counted
        if one.output_tokens > 1
    ]
    return sum(times) / len(times) if times else None


def _request_seconds(came: Seconds, went: Seconds, until: Seconds) -> Seconds:
    """Seconds that requests have spent up to each time of `until`; both sorted."""
    arrivals = np.searchsorted(came, until)
    ends = np.searchsorted(went, until)
    came_before = np.concatenate([[0.0], np.cumsum(came)])[arrivals]
    went_before = np.concatenate([[0.0], np.cumsum(went)])[ends]
    spent: Seconds = (arrivals - ends) * until - came_before + went_before
    return spent


def _busy_seconds(came: Seconds, went: Seconds, begin: float, end: float) -> float:
    """Seconds from `begin` to `end` with at least one request; both sorted.

    Of a set of intervals the k-th end lies before the k+1-th arrival just where
    nothing is left between them.
    """
    if not len(came):
        return 0.0
    gaps_from, gaps_to = went[:-1], came[1:]
    idle = np.clip(gaps_to, begin, end) - np.clip(gaps_from, begin, end)
    edges = max(float(came[0]) - begin, 0.0) + max(end - max(float(went[-1]), begin), 0.0)
    return end - begin - edges - float(idle[gaps_to > gaps_from].sum())
