"""All of it: one table, one plot, and every figure as JSON.

    python -m benchmarks [--quick] [--only place,events,...] [--out DIRECTORY]

Takes some twenty minutes, with --quick two. Without `ai-dynamo-runtime` (the `bench`
extra brings it) Dynamo's columns stay empty.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import churn, dynamo, events, front_ends, history, placing
from benchmarks.measure import machine
from benchmarks.plot import plot
from benchmarks.table import table
from benchmarks.trees import SHAPES, Tree

TOKENS = (128, 2_048, 8_192, 32_768)
REPLICAS = (2, 8, 64)
BLOCKS = (10_000, 100_000, 1_000_000)
BLOCK_SIZES = (16, 64, 1)

Row = dict[str, Any]


def place(quick: bool) -> Iterator[Row]:
    """Every cell, but for prompts that are larger than a replica's cache; with `quick`,
    what differs from the middle in one way."""
    yield placing.reference(2_048, 16, 300 if quick else 2_000)
    for block in BLOCK_SIZES:
        for shape in SHAPES:
            for blocks in BLOCKS:
                for replicas in REPLICAS:
                    for tokens in TOKENS:
                        away = [
                            block != 16,
                            shape != "shallow",
                            blocks != 100_000,
                            replicas != 8,
                            tokens != 2_048,
                        ]
                        fits = tokens // block <= blocks // replicas
                        if fits and (not quick or sum(away) <= 1):
                            runs = 300 if quick else 600
                            runs = max(60, runs // max(1, tokens // block // 256))
                            yield placing.cell(shape, replicas, blocks, block, tokens, runs)
    yield placing.packed_tokens(2_048, 300 if quick else 2_000)
    yield from history.after((0, 2_000) if quick else (0, 100, 1_000, 5_000, 20_000))


def select(quick: bool) -> Iterator[Row]:
    """Dynamo's whole selection, and ours on the same tree."""
    for tokens in TOKENS:
        runs = 100 if quick else 500
        ours = placing.cell("shallow", 8, 10_000, 16, tokens, runs)
        theirs = (
            dynamo.selections(Tree("shallow", 8, 10_000, 16, tokens), runs)
            if dynamo.available
            else {"p50_us": None, "p99_us": None}
        )
        yield {
            "what": "select",
            "tokens": tokens,
            "p50_us": ours["p50_us"],
            "p99_us": ours["p99_us"],
            "booked_p50_us": ours["booked_p50_us"],
            "dynamo_select_p50_us": theirs["p50_us"],
            "dynamo_select_p99_us": theirs["p99_us"],
        }


def stream(quick: bool) -> Iterator[Row]:
    """Events."""
    for name in events.STREAMS:
        yield events.rates(name, 50_000 if quick else 400_000, 1 if quick else 3)


def life(quick: bool) -> Iterator[Row]:
    """A life of requests, and what a block costs in memory."""
    yield churn.churn(20_000 if quick else 1_000_000)
    blocks = 50_000 if quick else 400_000
    for block, replicas, run in ((16, 1, 128), (16, 8, 128), (1, 1, 2_048), (1, 8, 2_048)):
        yield churn.memory(blocks // replicas, block, replicas, run)
    yield churn.memory(blocks // 4, 16, 1, 1)


def process(quick: bool) -> Iterator[Row]:
    """Front ends and the scheduler process."""
    yield from front_ends.measure(400 if quick else 3_000)


PARTS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "place": place,
    "select": select,
    "events": stream,
    "life": life,
    "process": process,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer cells and repetitions")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="where to write")
    options = parser.parse_args()
    parts = options.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)} (there are: {', '.join(PARTS)})")
    rows: list[Row] = []
    began = time.monotonic()
    for part in parts:
        for row in PARTS[part](options.quick):
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), file=sys.stderr)
    found = {**machine(), "seconds": round(time.monotonic() - began), "rows": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(found, indent=1))
    text = table(found)
    (options.out / "table.md").write_text(text)
    if plot(rows, options.out / "cost.png"):
        print(f"plot: {options.out / 'cost.png'}", file=sys.stderr)
    print(text)


if __name__ == "__main__":
    main()
