"""Simulated runs as tables: one for each workload and rate, two by workload over its
rates, and one over all of them.

With several seeds a figure is the mean over the seeds, and a ratio the geometric mean of
the ratios of each seed: both sides of a ratio served the same requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, geometric_mean
from typing import Final, TypeAlias

from preble_plugin.cli.tables import table_text
from preble_plugin.sim.figures import Figures
from preble_plugin.sim.sweep import Result, label_of

Measure: TypeAlias = Callable[[Figures], float]

_TIMES: Final[dict[str, Measure]] = {
    "mean TTFT": lambda one: one.mean_ttft,
    "p99 TTFT": lambda one: one.p99_ttft,
    "mean latency": lambda one: one.mean_latency,
    "p99 latency": lambda one: one.p99_latency,
}


def comparison_text(results: Sequence[Result], baseline: str) -> str:
    """All tables. `baseline` is the policy that the ratios are against."""
    parts = []
    blocks = blocks_of(results)
    for (workload, rate), block in blocks.items():
        at = "at its own times" if rate is None else f"at {rate:g} requests/s"
        parts.append(f"\n{workload} {at}\n{_block_table(block, baseline)}")
    workloads = list(dict.fromkeys(workload for workload, _ in blocks))
    if len(workloads) > 1:
        for measure in ("mean latency", "p99 TTFT"):
            words = f"times better than {baseline}, geometric means over the rates"
            table = _workloads_table(blocks, workloads, baseline, measure)
            parts.append(f"\n{measure} by workload: {words}\n{table}")
    if len(blocks) > 1:
        words = f"times better than {baseline}, geometric means"
        table = _summary_table(list(blocks.values()), baseline)
        parts.append(f"\nall {len(blocks)} together: {words}\n{table}")
    parts.append(
        "\nspread: requests on the replicas on average, the most less the least, of the mean"
    )
    return "\n".join(parts)


def blocks_of(results: Iterable[Result]) -> dict[tuple[str, float | None], list[Result]]:
    """Results by workload and rate, in order."""
    blocks: dict[tuple[str, float | None], list[Result]] = {}
    for one in results:
        blocks.setdefault((one.workload, one.rate), []).append(one)
    return blocks


def policies_of(results: Iterable[Result]) -> list[str]:
    """Their policies, each by its label (`label_of`), in order."""
    return list(dict.fromkeys(map(label_of, results)))


def figures_of(results: Iterable[Result], policy: str) -> list[Figures]:
    """What came of a policy, a seed each; without those that failed."""
    return [one.figures for one in results if label_of(one) == policy and one.figures is not None]


def _block_table(block: Sequence[Result], baseline: str) -> str:
    head = ["policy", *(f"{name} s" for name in _TIMES), "cached", "spread"]
    rows = [_row(block, policy, baseline) for policy in policies_of(block)]
    return table_text([*head, f"latency vs {baseline}"], rows)


def _row(block: Sequence[Result], policy: str, baseline: str) -> list[str]:
    found = figures_of(block, policy)
    if not found:
        return [policy, *["-"] * (len(_TIMES) + 2), "failed"]
    ratio = _ratio(block, policy, baseline, _TIMES["mean latency"])
    return [
        policy,
        *(f"{fmean(map(measure, found)):.3f}" for measure in _TIMES.values()),
        f"{fmean(one.cached_share for one in found):.1%}",
        f"{fmean(one.spread for one in found):.1%}",
        "-" if ratio is None else f"{ratio:.2f}x",
    ]


def _workloads_table(
    blocks: Mapping[tuple[str, float | None], Sequence[Result]],
    workloads: Sequence[str],
    baseline: str,
    measure: str,
) -> str:
    rows = []
    for policy in policies_of(one for block in blocks.values() for one in block):
        cells = []
        for workload in workloads:
            ratios = [
                _ratio(block, policy, baseline, _TIMES[measure])
                for (name, _), block in blocks.items()
                if name == workload
            ]
            cells.append(_mean_text(ratios))
        rows.append([policy, *cells])
    return table_text(["policy", *workloads], rows)


def _mean_text(ratios: Iterable[float | None]) -> str:
    known = [ratio for ratio in ratios if ratio is not None]
    return f"{geometric_mean(known):.2f}x" if known else "-"


def _summary_table(blocks: Sequence[Sequence[Result]], baseline: str) -> str:
    rows = []
    for policy in policies_of(one for block in blocks for one in block):
        cells = []
        for measure in _TIMES.values():
            cells.append(_mean_text(_ratio(block, policy, baseline, measure) for block in blocks))
        latencies = [_ratio(block, policy, baseline, _TIMES["mean latency"]) for block in blocks]
        worst = min((ratio for ratio in latencies if ratio is not None), default=None)
        rows.append([policy, *cells, "-" if worst is None else f"{worst:.2f}x"])
    return table_text(["policy", *_TIMES, "worst mean latency"], rows)


def _ratio(block: Sequence[Result], policy: str, baseline: str, measure: Measure) -> float | None:
    """How many times better than the baseline, over the seeds that both have."""
    sides = [
        {one.seed: one.figures for one in block if label_of(one) == name and one.figures}
        for name in (baseline, policy)
    ]
    ratios = [
        measure(sides[0][seed]) / measure(sides[1][seed]) for seed in sides[0] if seed in sides[1]
    ]
    return geometric_mean(ratios) if ratios else None
