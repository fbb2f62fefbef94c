"""The comparison as rows of text: one list of rows for terminal and page."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from preble_plugin.bench.result import Comparison


class Row(NamedTuple):
    """One measure: its name, one cell a side, and one ratio a pair (or nothing)."""

    name: str
    cells: list[str]
    ratios: list[str]


def headings(comparison: Comparison) -> Row:
    """The table's first row."""
    sides, pairs = comparison.sides, comparison.pairs
    ratios = [f"{sides[under].short} vs {sides[over].short}" for over, under in pairs]
    return Row(
        "",
        [sides[side].heading for side in comparison.dispatches],
        ratios if len(pairs) > 1 else ["ratio"],
    )


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
            _ratios(comparison, name, better),
        )
        for label, name, text, better in measures
    ]
    nothing = [""] * max(1, len(comparison.pairs))
    work = [comparison.work_shares(side) for side in sides]
    table.append(
        Row(
            "work per replica",
            [" / ".join(f"{share:.0%}" for share in shares.values()) for shares in work],
            nothing,
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
            nothing,
        )
    )
    return table


def render(comparison: Comparison) -> str:
    """The table for a terminal."""
    table = [headings(comparison), *rows(comparison)]
    lines = [[row.name, *row.cells, *row.ratios] for row in table]
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


def _ratios(comparison: Comparison, name: str, better: str) -> list[str]:
    found = [
        comparison.ratio(name, over, under) if better else comparison.ratio(name, under, over)
        for over, under in comparison.pairs
    ]
    texts = ["" if ratio is None else f"{ratio:.2f}x {better}".rstrip() for ratio in found]
    return texts or [""]


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms"
