"""From answers to the figures that are shown.

A `Run` is one dispatch under the workload on a fresh server; a `Comparison` is
all runs. With several rounds a figure is the median over the rounds, and a
ratio the median of the ratios within each round: the two sides of a round ran
one right after the other on the same machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final, NamedTuple

import msgspec
import numpy as np

from preble_plugin.bench.open_loop import Answer

PREBLE: Final = "preble"
"""The side that a comparison is about, where it ran."""


class Side(NamedTuple):
    """How a way to dispatch is called where people read it."""

    heading: str
    short: str


class Figures(msgspec.Struct, frozen=True):
    """One run in numbers. Times in seconds, throughput in requests/s."""

    requests: int
    failed: int
    mean_ttft: float
    p99_ttft: float
    mean_latency: float
    p99_latency: float
    throughput: float
    cached_share: float
    """Prompt tokens found in a cache, of all prompt tokens."""
    computed_tokens: dict[str, int]
    """Prompt tokens that each replica had to compute: the work."""
    p99_late: float
    """How late the load generator itself was: its own limit, not the server's."""
    foreign_cores: float
    """Processor cores that other programs used meanwhile, on average: with much
    of that, the sides are not comparable."""


class Run(msgspec.Struct, frozen=True):
    """One dispatch under the workload."""

    dispatch: str
    round: int
    figures: Figures
    answers: list[Answer]


class Comparison(msgspec.Struct, frozen=True):
    """All runs, with what they ran on."""

    workload: str
    rate: float
    seed: int
    machine: str
    engine: str
    sides: dict[str, Side]
    """How each is called, by its name in the runs."""
    runs: list[Run]

    @property
    def dispatches(self) -> list[str]:
        """The sides, in order of their first run."""
        return list(dict.fromkeys(run.dispatch for run in self.runs))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """What is set against what: each other side against preble, or, where that
        did not run, the first against each other side."""
        first, *others = self.dispatches
        if PREBLE in self.dispatches:
            return [(side, PREBLE) for side in self.dispatches if side != PREBLE]
        return [(first, side) for side in others]

    def of(self, dispatch: str) -> list[Run]:
        """The runs of one side, in order of rounds."""
        return [run for run in self.runs if run.dispatch == dispatch]

    def figure(self, dispatch: str, name: str) -> float:
        """Median over the rounds of one of the `Figures` that are numbers."""
        return median(float(getattr(run.figures, name)) for run in self.of(dispatch))

    def ratio(self, name: str, over: str, under: str) -> float | None:
        """Median over the rounds of `over` / `under`; None where a divisor is 0."""
        pairs = zip(self.of(over), self.of(under), strict=False)
        parts = [
            (float(getattr(a.figures, name)), float(getattr(b.figures, name))) for a, b in pairs
        ]
        if not parts or any(divisor == 0 for _, divisor in parts):
            return None
        return median(float(value / divisor) for value, divisor in parts)

    def work_shares(self, dispatch: str) -> dict[str, float]:
        """Each replica's share of the computed prompt tokens, over all rounds."""
        totals: dict[str, int] = {}
        for run in self.of(dispatch):
            for replica, tokens in run.figures.computed_tokens.items():
                totals[replica] = totals.get(replica, 0) + tokens
        whole = sum(totals.values()) or 1
        return {replica: tokens / whole for replica, tokens in sorted(totals.items())}

    @property
    def failed(self) -> int:
        """Calls that were not answered in full, over all runs."""
        return sum(run.figures.failed for run in self.runs)


def figures(
    answers: Sequence[Answer],
    before: Mapping[str, float],
    after: Mapping[str, float],
    foreign_cores: float = 0.0,
) -> Figures:
    """Sum up one run from its answers and the prompt tokens that each replica had
    computed before and after it.

    Raises `RuntimeError` where no call was answered.
    """
    good = [answer for answer in answers if answer.error is None]
    if not good:
        raise RuntimeError(f"no request was answered; the first error: {answers[0].error}")
    ttft = np.array([answer.ttft_seconds for answer in good])
    latency = np.array([answer.latency_seconds for answer in good])
    ended = max(answer.at_seconds + answer.latency_seconds for answer in good)
    prompt_tokens = sum(answer.prompt_tokens for answer in good)
    return Figures(
        requests=len(answers),
        failed=len(answers) - len(good),
        mean_ttft=float(ttft.mean()),
        p99_ttft=float(np.percentile(ttft, 99)),
        mean_latency=float(latency.mean()),
        p99_latency=float(np.percentile(latency, 99)),
        throughput=len(good) / (ended - min(answer.at_seconds for answer in good)),
        cached_share=sum(answer.cached_tokens for answer in good) / max(prompt_tokens, 1),
        computed_tokens={
            replica: round(tokens - before.get(replica, 0)) for replica, tokens in after.items()
        },
        p99_late=float(np.percentile([answer.late_seconds for answer in answers], 99)),
        foreign_cores=foreign_cores,
    )
