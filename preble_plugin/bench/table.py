"""The comparison as rows of text: one list of rows for terminal and page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from preble_plugin.bench.result import Comparison

NAMES: Final = {"default": "vLLM's own dispatch", "preble": "--dp-scheduler preble"}

OWN: Final = "default"
"""The side that the others are compared with."""


class Row(NamedTuple):
    """One measure: its name, one cell a side, and the ratio (or nothing)."""

    name: str
    cells: list[str]
    ratio: str


def heading(dispatch: str) -> str:
    """How a side is called where people read it."""
    return NAMES.get(dispatch, dispatch)


def rows(comparison: Comparison) -> list[Row]:
    """The table's rows, without its heading."""
    measures: list[tuple[str, str, Callable[[float], str], str]] = [
        ("mean TTFT", "mean_ttft", _seconds, "faster"),
        ("p99 TTFT", "p99_ttft", _seconds, "faster"),
        ("mean latency", "mean_latency", _seconds, "faster"),
        ("p99 latency", "p99_latency", _seconds, "faster"),
        ("throughput", "throughput", lambda value: f"{value:.2f} req/s", ""),
        ("prompt tokens from cache", "cached_share", lambda value: f"{value:.1%}", ""),
    ]
    sides = comparison.dispatches
    table = [
        Row(
            label,
            [text(comparison.figure(side, name)) for side in sides],
            _ratio(comparison, name, better),
        )
        for label, name, text, better in measures
    ]
    work = [comparison.work_shares(side) for side in sides]
    table.append(
        Row(
            "work per replica",
            [" / ".join(f"{share:.0%}" for share in shares.values()) for shares in work],
            "",
        )
    )
    table.append(
        Row(
            "requests answered",
            [
                f"{sum(run.figures.requests - run.figures.failed for run in comparison.of(side))}"
                f" of {sum(run.figures.requests for run in comparison.of(side))}"
                for side in sides
            ],
            "",
        )
    )
    return table


def render(comparison: Comparison) -> str:
    """The table for a terminal."""
    lines = [["", *map(heading, comparison.dispatches), "ratio"]]
    lines += [[row.name, *row.cells, row.ratio] for row in rows(comparison)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    drawn = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    rule = "-" * max(map(len, drawn))
    return "\n".join([drawn[0], rule, *drawn[1:], rule])


def caption(comparison: Comparison) -> str:
    """What was run, in one line."""
    first = comparison.runs[0].figures
    rounds = max(run.round for run in comparison.runs) + 1
    told = f"medians of {rounds} rounds, " if rounds > 1 else ""
    return (
        f"{comparison.engine} on {comparison.machine}, {len(first.computed_tokens)} replicas; "
        f"workload '{comparison.workload}': {first.requests} requests at {comparison.rate:g}/s; "
        f"{told}seed {comparison.seed}"
    )


def _ratio(comparison: Comparison, name: str, better: str) -> str:
    others = [side for side in comparison.dispatches if side != OWN]
    if OWN not in comparison.dispatches or len(others) != 1:
        return ""
    ratio = (
        comparison.ratio(name, OWN, others[0]) if better else comparison.ratio(name, others[0], OWN)
    )
    return "" if ratio is None else f"{ratio:.2f}x {better}".rstrip()


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms"
