"""Real beside simulated, as markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from statistics import median

from benchmarks.validate.compare import Beside, same_order
from benchmarks.validate.fit import Fitted

_HEAD = (
    "| workload | rate | policy | rounds (spread) | mean TTFT | simulated | ratio "
    "| mean latency | simulated | ratio | cached | simulated | same order |"
)


def report(engine: str, fitted: Fitted, paces: Sequence[float], rows: Sequence[Beside]) -> str:
    """Coefficients, one line a cell, and how far off the simulator is over all."""
    lines = [
        f"## {engine}",
        "",
        *_coefficients(fitted),
        *_efficiency(paces),
        "",
        _HEAD,
        "|---" * 13 + "|",
    ]
    for _, cell in groupby(rows, key=lambda row: (row.workload, row.rate)):
        lines += _cell(list(cell))
    if rows:
        lines += ["", *_summary(rows)]
    return "\n".join(lines) + "\n"


def _coefficients(fitted: Fitted) -> Iterator[str]:
    hardware, front = fitted.hardware, fitted.front
    for piece in hardware.linear:
        below = f"below {piece.below} tokens" if piece.below else "above"
        square = (
            f" {piece.per_token_squared * 1e3:+.4f} n^2 / 1000" if piece.per_token_squared else ""
        )
        yield f"- a step {below}: {piece.fixed:.2f} {piece.per_token:+.3f} n{square} ms"
    yield f"- prefill: {hardware.prefill.per_product * 1e6:.1f} ns per new token and context token"
    yield f"- decode: {hardware.decode.per_context * 1e3:.2f} us per context token"
    yield (
        f"- front end: {front.seconds * 1e3:.1f} ms and "
        f"{front.seconds_per_token * 1e6:.1f} us per prompt token"
    )
    yield (
        f"- {fitted.samples} shapes timed, off by {fitted.median_error:.1%} (median) "
        f"and {fitted.worst_error:.1%} (worst)"
    )


def _efficiency(paces: Sequence[float]) -> Iterator[str]:
    if paces:
        yield (
            f"- efficiency {median(paces):.2f}: the middle of {len(paces)} loaded runs, "
            f"{min(paces):.2f} to {max(paces):.2f}"
        )


def _cell(rows: Sequence[Beside]) -> Iterator[str]:
    order = "yes" if same_order(rows) else "NO"
    for number, row in enumerate(sorted(rows, key=lambda row: row.latency)):
        spread = f"{row.rounds} ({row.spread:.0%})" if row.rounds > 1 else "1"
        yield (
            f"| {row.workload} | {row.rate:g}/s | {row.policy} | {spread} "
            f"| {row.ttft * 1e3:.0f} ms | {row.simulated_ttft * 1e3:.0f} ms "
            f"| {row.simulated_ttft / row.ttft:.2f} "
            f"| {row.latency * 1e3:.0f} ms | {row.simulated_latency * 1e3:.0f} ms "
            f"| {row.simulated_latency / row.latency:.2f} "
            f"| {row.cached:.1%} | {row.simulated_cached:.1%} "
            f"| {order if number == 0 else ''} |"
        )


def _summary(rows: Sequence[Beside]) -> Iterator[str]:
    for name, ratios in (
        ("mean TTFT", [row.simulated_ttft / row.ttft for row in rows]),
        ("mean latency", [row.simulated_latency / row.latency for row in rows]),
    ):
        near = sum(abs(ratio - 1) <= 0.15 for ratio in ratios)
        yield (
            f"- {name}: simulated over real {median(ratios):.2f} (median), "
            f"{min(ratios):.2f} to {max(ratios):.2f}; {near} of {len(ratios)} within 15 %"
        )
    cells = [list(cell) for _, cell in groupby(rows, key=lambda row: (row.workload, row.rate))]
    ranked = [cell for cell in cells if len(cell) > 1]
    yield f"- same order of policies: {sum(map(same_order, ranked))} of {len(ranked)} cells"
