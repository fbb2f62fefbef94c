"""When requests come: Poisson, or the times of a real hour.

- Poisson given their number: n times drawn evenly over n / rate seconds, so that the
  rate is met exactly and comparisons are not about who drew the busier times.
- Azure's hour of coding and its hour of conversation (LLM inference trace 2023): the
  times as they were, to be stretched to a rate.

All times are seconds from the start, in order.
"""

from __future__ import annotations

import gzip
from functools import cache
from importlib import resources
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from preble_plugin.sim.streams import stream_number

Times: TypeAlias = NDArray[np.float64]
AzureTrace: TypeAlias = Literal["code", "conversation"]

AZURE_TRACES: Final[tuple[AzureTrace, ...]] = ("code", "conversation")


def check_rate(rate: float) -> None:
    """Raises ValueError for a rate that is not above 0 and finite."""
    if not 0 < rate < float("inf"):
        raise ValueError(f"the rate must be above 0 requests/s and finite, got {rate}")


def poisson(requests: int, rate: float, seed: int, kind: str = "") -> Times:
    """`requests` times at `rate` requests/s. `kind` keeps workloads of one seed apart.

    Raises ValueError for a rate that cannot be.
    """
    check_rate(rate)
    stream = np.random.Generator(np.random.PCG64(stream_number(seed, "arrivals", kind)))
    return np.sort(stream.random(requests)) * (requests / rate)


@cache
def azure(trace: AzureTrace) -> Times:
    """The times of one trace: 8,819 of code, 19,366 of conversation. Both count from
    the first request of either, as they ran in the same hour. Do not write to it."""
    packed = resources.files("preble_plugin.sim").joinpath(f"data/azure_{trace}.txt.gz")
    ticks = np.array(gzip.decompress(packed.read_bytes()).split(), dtype=np.int64)
    times = np.cumsum(ticks) / 1e7
    times.setflags(write=False)
    return times


def at_rate(times: Times, rate: float, requests: int | None = None) -> Times:
    """`times` from 0 on, stretched or pressed to `rate` requests/s.

    `requests` is how many come in all where each time stands for several (sessions);
    by default one each. Raises ValueError where that cannot be.
    """
    check_rate(rate)
    if len(times) < 2:
        return np.zeros(len(times))
    span = float(times.max() - times.min())
    if span <= 0:
        raise ValueError(
            f"{len(times)} requests that all come at the same time have no rate to scale; "
            "leave the rate out"
        )
    # n times make n - 1 gaps; each stands for `each` requests.
    each = (requests if requests is not None else len(times)) / len(times)
    scaled: Times = (times - times.min()) * ((len(times) - 1) * each / (rate * span))
    return scaled
