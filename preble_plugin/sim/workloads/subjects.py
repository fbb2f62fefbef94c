"""Questions about subjects: what is common to all, one of many subjects, its own end.

    | common | subject | own |

1. How often each subject is asked about is drawn first (`counts_of`).
2. Then when (`interleaved`): the questions about one subject lie anywhere within a
   window, so that `live` subjects are asked about at any time. A longer workload has
   more subjects, not more of them at a time: how much can be reused does not depend on
   how long one simulates. Up to about `live` subjects in all it is a plain shuffle. The
   windows close into a ring, so that the ends are as busy as the middle.
3. Tools, problems, videos and documents differ by the lengths alone (`questions`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from preble_plugin.sim.arrivals import Times
from preble_plugin.sim.asked import Asked, Part
from preble_plugin.sim.streams import stream_number
from preble_plugin.sim.workloads.draws import Counts, Draws, Floats


def counts_of(requests: int, mean: float, draws: Draws, law: Callable[[Floats], Counts]) -> Counts:
    """How often each subject is asked about, `requests` in all; the last may be cut.

    `law` turns even numbers into counts of at least 1, `mean` on average.
    """
    counts = law(draws.even(max(1, round(requests / mean))))
    while counts.sum() < requests:
        counts = np.concatenate([counts, law(draws.even(1))])
    before = np.cumsum(counts) - counts
    left: Counts = np.minimum(counts, requests - before)
    return left[left > 0]


def interleaved(counts: Counts, live: int, draws: Draws) -> Counts:
    """The subject of each request, in the order of time; `live` subjects at a time.

    Raises ValueError for fewer than 1 of them.
    """
    if live < 1:
        raise ValueError(f"live must be at least 1 subject, got {live}")
    requests = int(counts.sum())
    window = min(float(requests), live * requests / len(counts))
    opens = np.repeat(np.cumsum(counts) - counts, counts)
    asked_at = (opens + draws.even(requests) * window) % requests
    order = np.argsort(asked_at, kind="stable")
    return np.repeat(np.arange(len(counts)), counts)[order]


def questions(
    kind: str,
    seed: int,
    times: Times,
    *,
    common: int,
    subjects: Counts,
    subject_tokens: Counts,
    own_tokens: Counts,
    output_tokens: Counts,
    max_output_tokens: int | None = None,
) -> list[Asked]:
    """One request for each of `times`, `subjects`, `own_tokens` and `output_tokens`;
    `subject_tokens` has one length for each subject. Lengths in tokens."""
    opening = (Part(stream_number(seed, f"{kind}/common"), common),) if common else ()
    heads = [
        (*opening, Part(stream_number(seed, f"{kind}/subject", number), length))
        for number, length in enumerate(subject_tokens.tolist())
    ]
    rows = zip(
        times.tolist(), subjects.tolist(), own_tokens.tolist(), output_tokens.tolist(), strict=True
    )
    return [
        Asked(
            request_id=f"{kind}-{number}",
            at=at,
            prompt=(*heads[subject], Part(stream_number(seed, f"{kind}/own", number), own)),
            output_tokens=output,
            max_output_tokens=max_output_tokens,
        )
        for number, (at, subject, own, output) in enumerate(rows)
    ]
