"""The figures as markdown: one table of placements, one of all else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

Row = dict[str, Any]


def table(found: dict[str, Any]) -> str:
    """All of a run's rows."""
    rows: list[Row] = found["rows"]
    sure = "with" if found["accelerator"] else "without"
    lines = [
        f"{found['processor']}, Python {found['python']}, {sure} the compiled accelerator.",
        "",
        *_placements([row for row in rows if row["what"] == "place"]),
        *_rest(rows),
    ]
    return "\n".join(lines) + "\n"


def _placements(rows: list[Row]) -> Iterator[str]:
    if not rows:
        return
    sizes = sorted({row["tokens"] for row in rows})
    yield "Microseconds: ours until the answer, p50 (p99), + booking / Dynamo p50 = how many"
    yield "times ours, until the answer, goes into Dynamo's hash and find; then the same for"
    yield "keys and walk alone."
    yield ""
    yield (
        "| block | tree | blocks | replicas | "
        + " | ".join(f"{size:,} tokens" for size in sizes)
        + " |"
    )
    yield "|--:|---|--:|--:|" + "--:|" * len(sizes)
    seen: dict[tuple[Any, ...], dict[int, Row]] = {}
    for row in rows:
        name = (row["block"], row["tree"], row["blocks"], row["replicas"])
        seen.setdefault(name, {})[row["tokens"]] = row
    for (block, tree, blocks, replicas), cells in seen.items():
        texts = [_cell(cells.get(size)) for size in sizes]
        yield f"| {block} | {tree} | {blocks:,} | {replicas} | " + " | ".join(texts) + " |"
    yield ""
    yield from _growth(rows)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    text = f"{row['p50_us']:.0f} ({row['p99_us']:.0f}) + {row['booked_p50_us']:.0f}"
    if theirs := row["dynamo_p50_us"]:
        text += f" / {theirs:.0f} = {theirs / row['p50_us']:.1f}x"
        text += f"; {theirs / row['match_p50_us']:.1f}x"
    return text


def _growth(rows: list[Row]) -> Iterator[str]:
    """Largest ratios between cells that differ in one way."""
    yield "| cost of a placement, p50 | median ratio | largest ratio |"
    yield "|---|--:|--:|"
    for field, small, large in (("blocks", 10_000, 1_000_000), ("replicas", 8, 64)):
        ratios = sorted(_ratios(rows, field, small, large))
        if ratios:
            middle, most = ratios[len(ratios) // 2], ratios[-1]
            yield f"| {large:,} {field} over {small:,} | {middle:.2f} | {most:.2f} |"
    yield ""


def _ratios(rows: list[Row], field: str, small: int, large: int) -> Iterator[float]:
    def others(row: Row) -> tuple[Any, ...]:
        names = ("block", "tree", "blocks", "replicas", "tokens")
        return tuple(row[name] for name in names if name != field)

    least = {others(row): row["p50_us"] for row in rows if row[field] == small}
    for row in rows:
        if row[field] == large and others(row) in least:
            yield row["p50_us"] / least[others(row)]


def _rest(rows: Iterable[Row]) -> Iterator[str]:
    texts: dict[str, Callable[[Row], list[tuple[str, str]]]] = {
        "reference": lambda row: [
            (f"plain `array('I', tokens)`, {row['tokens']} tokens", f"{row['array_p50_us']} us"),
            (f"block keys of {row['tokens']} tokens", f"{row['keys_p50_us']} us"),
        ],
        "place, tokens packed": lambda row: [
            (
                f"placement, {row['tokens']} tokens packed in an array",
                f"p50 {row['p50_us']} us, p99 {row['p99_us']} us",
            )
        ],
        "history": lambda row: [
            (
                f"placement of a prefix of 8,000 blocks that {row['requests']:,} requests left "
                "at random blocks",
                f"p50 {row['p50_us']} us, booking {row['booked_p50_us']} us, "
                f"{row['tree_nodes']} nodes",
            )
        ],
        "select": lambda row: [
            (
                f"placement of {row['tokens']:,} tokens / `SelectionService.select`, 8 replicas",
                f"p50 {row['p50_us']} + {row['booked_p50_us']} booking / "
                f"{row['dynamo_select_p50_us']} us"
                + _times(row["dynamo_select_p50_us"], row["p50_us"])
                + ", booking counted"
                + _times(row["dynamo_select_p50_us"], row["p50_us"] + row["booked_p50_us"]),
            )
        ],
        "events": lambda row: [
            (
                f"events, {row['stream']}: from the wire / applied alone / Dynamo `apply_event`",
                f"{row['wire_blocks_per_s']:,} / {row['applied_blocks_per_s']:,} / "
                f"{row['dynamo_blocks_per_s'] or 0:,} blocks/s",
            )
        ],
        "churn": lambda row: [
            (
                f"placement after {row['requests']:,} requests, over one in a just filled cache",
                f"{row['late_p50_us'] / row['early_p50_us']:.2f}",
            ),
            ("memory from a tenth of them on", f"{row['growth_percent']:+.2f} %"),
        ],
        "memory": lambda row: [
            (
                f"memory of a block of {row['block']} and replica, {row['replicas']} replicas, "
                f"stored {row['run']:,} at a time",
                f"{row['bytes_per_block_and_replica']:.0f} bytes",
            )
        ],
        "round trip": lambda row: [
            (
                "scheduler process, one placement outstanding",
                f"p50 {row['p50_us']} us, p99 {row['p99_us']} us",
            )
        ],
        "8 front ends": lambda row: [
            ("scheduler process, 8 front ends", f"{row['placements_per_s']:,} placements/s")
        ],
    }
    yield "| | |"
    yield "|---|--:|"
    for row in rows:
        if row["what"] in texts:
            for name, figure in texts[row["what"]](row):
                yield f"| {name} | {figure} |"


def _times(theirs: float | None, ours: float) -> str:
    return f" = {theirs / ours:.1f}x" if theirs else ""
