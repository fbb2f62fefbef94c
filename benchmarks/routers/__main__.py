"""`preble serve` against `sglang-router` (cache_aware), in front of the same two vLLM servers.

    python -m benchmarks.routers --sglang-router PROGRAM --out DIR

`PROGRAM` is the command `sglang-router`, best of an environment of its own.

1. `overhead`: what each router adds to a request of a trivial server (`overhead`).
2. `serving`: three workloads of the simulator, as text, in open loop, asked of two vLLM
   servers of one rank each: through sglang-router as it comes, through one that is told to
   balance earlier, through ours, and of the servers in turn without a router. The servers
   stay, with their caches emptied; each run gets a new router. A round is all sides one
   right after the other, in turning order. Figures leave out the first tenth of the
   requests, by arrival, and are medians over the rounds; a ratio is the median of the
   ratios within each round.

Rounds that an earlier call wrote into DIR are kept, and count: a DIR for each load.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

import msgspec
import numpy as np

from benchmarks.routers import overhead
from benchmarks.routers.started import DIRECT, PREBLE, SIDES, router, servers
from benchmarks.routers.words import Words
from benchmarks.serving import cpu_seconds
from benchmarks.validate import stage
from benchmarks.validate.asking import Heard, replay
from benchmarks.validate.scaling import Cell
from preble_plugin.bench.foreign import ForeignLoad
from preble_plugin.bench.server import SERVED_NAME, Server, ServerError
from preble_plugin.bench.tiny_model import make_tiny_model
from preble_plugin.sim.asked import Asked, Part
from preble_plugin.sim.figures import WARM_UP

STEPS: Final = ("overhead", "serving")
CELLS: Final = {"document": 2.75, "agent": 6.5, "hot": 5.5}
"""Workloads, and requests/s that both servers can do with caches that are used well."""


class Run(msgspec.Struct, frozen=True):
    """One side in one round of a workload."""

    workload: str
    side: str
    round: int
    foreign_cores: float
    answers: list[Heard]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    # SIGTERM ends as Ctrl-C does: through the blocks that stop what runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    model = make_tiny_model(options.model, shape=stage.SHAPE)
    try:
        if "overhead" in options.steps:
            cores = sorted(os.sched_getaffinity(0))
            pair = cores[0], cores[1 % len(cores)]
            text = overhead.measure(5, pair, options.out, options.sglang_router, model)
            (options.out / "overhead.md").write_text(text, encoding="utf-8")
            print(text, flush=True)
        if "serving" in options.steps:
            runs = _serving(options, model)
            text = "\n".join(table(runs, workload) for workload in CELLS)
            (options.out / "serving.md").write_text(text, encoding="utf-8")
            print(text)
            print(f"Other programs used up to {max(r.foreign_cores for r in runs):.2f} cores.")
    except (ServerError, RuntimeError, OSError) as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    return 0


def _serving(options: argparse.Namespace, model: Path) -> list[Run]:
    path = options.out / "runs.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    runs = [msgspec.json.decode(line, type=Run) for line in lines]
    done = {(one.workload, one.side, one.round) for one in runs}
    left = [
        (workload, SIDES[(turn + number) % len(SIDES)], number)
        for number in range(options.rounds)
        for workload in CELLS
        for turn in range(len(SIDES))
    ]
    left = [each for each in left if each not in done]
    if not left:
        return runs
    words = Words(model)
    with servers(model, options.out) as running:
        stage.take_precedence({threading.get_native_id()})
        for one in running:
            _warm(one.base_url, words, 600)  # no run pays what only a server's first costs
        for workload, side, number in left:
            found = _run(options, running, words, workload, side, number)
            with path.open("ab") as file:
                file.write(msgspec.json.encode(found) + b"\n")
            runs.append(found)
            told = figures(found.answers)
            print(workload, side, number, {k: round(v, 3) for k, v in told.items()}, flush=True)
    return runs


def _run(
    options: argparse.Namespace,
    running: Sequence[Server],
    words: Words,
    workload: str,
    side: str,
    number: int,
) -> Run:
    rate = CELLS[workload] * options.load
    asked = Cell(workload, rate, round(rate * options.seconds), number + 1).workload()
    urls = [one.base_url for one in running]
    with ExitStack() as stack:
        pids = []
        if side != DIRECT:
            log = options.out / f"{side}.log"
            made = stack.enter_context(router(side, urls, log, options.sglang_router))
            stage.take_precedence(made.threads())
            urls, pids = [made.base_url], [made.pid]
            _warm(made.base_url, words, 20)
        for one in running:
            stage.reset_caches("vllm", one)
            _warm(one.base_url, words, 20)  # which has it tell so
        foreign = ForeignLoad(lambda: _seconds(running, pids))
        answers = replay(urls, SERVED_NAME, asked, wording=words)
        return Run(workload, side, number, foreign.cores(), answers)


def _warm(base_url: str, words: Words, tokens: int) -> None:
    """A few prompts that no workload has. Raises `RuntimeError` where one fails."""
    asked = [Asked(f"warm {n}", 0.0, (Part(1_000_000 + n, tokens),), 8) for n in range(4)]
    for one in replay(base_url, SERVED_NAME, asked, wording=words):
        if one.error is not None:
            raise RuntimeError(f"{base_url} does not answer: {one.error}")


def _seconds(running: Sequence[Server], pids: Sequence[int]) -> float:
    ours = sum(one.cpu_seconds() for one in running)
    return ours + sum(cpu_seconds(pid) for pid in pids)


def figures(answers: Sequence[Heard]) -> dict[str, float]:
    """One run in numbers, the first tenth by arrival left out; times in seconds."""
    counted = sorted(answers, key=lambda one: one.arrived)[round(WARM_UP * len(answers)) :]
    good = [one for one in counted if one.error is None]
    ttft = np.array([one.ttft for one in good] or [np.nan])
    prompts = sum(one.prompt_tokens for one in good)
    return {
        "requests": len(counted),
        "failed, of all": sum(one.error is not None for one in answers),
        "mean TTFT (s)": float(ttft.mean()),
        "median TTFT (s)": float(np.percentile(ttft, 50)),
        "p99 TTFT (s)": float(np.percentile(ttft, 99)),
        "mean latency (s)": float(np.mean([one.latency for one in good] or [np.nan])),
        "cached share of prompt tokens": sum(one.cached_tokens for one in good) / max(prompts, 1),
    }


def table(runs: Sequence[Run], workload: str) -> str:
    """Medians over the rounds of each side, and of each other one over ours."""
    found = {
        side: [
            figures(one.answers)
            for one in sorted(runs, key=lambda run: run.round)
            if (one.workload, one.side) == (workload, side)
        ]
        for side in SIDES
    }
    others = [side for side in SIDES if side != PREBLE]
    lines = [
        f"| {workload} | {' | '.join([*SIDES, *(f'{side} / {PREBLE}' for side in others)])} |",
        "|---|" + "--:|" * (len(SIDES) + len(others)),
    ]
    for name in found[PREBLE][0]:
        said = [f"{median(one[name] for one in found[side]):.3g}" for side in SIDES]
        for side in others:
            pairs = zip(found[side], found[PREBLE], strict=True)
            ratios = [theirs[name] / ours[name] for theirs, ours in pairs if ours[name]]
            said.append(f"{median(ratios):.2f}" if ratios else "")
        lines.append(f"| {name} | {' | '.join(said)} |")
    return "\n".join([*lines, ""])


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.routers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--sglang-router", type=Path, required=True, help="its command: the file's path")
    add("--rounds", type=int, default=3, help="rounds of `serving`, in all")
    add("--seconds", type=float, default=30.0, help="of arrivals of each run")
    add("--load", type=float, default=1.0, help="times the requests/s of each workload")
    add("--steps", default=",".join(STEPS), help=f"of {', '.join(STEPS)}")
    add("--model", type=Path, default=Path(".cache/validate-model"), help="made if not there")
    add("--out", type=Path, default=Path("build/routers"), help="where to write")
    options = parser.parse_args(arguments)
    options.steps = options.steps.split(",")
    if unknown := set(options.steps) - set(STEPS):
        parser.error(f"no such step: {', '.join(unknown)} (there are: {', '.join(STEPS)})")
    options.out.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
