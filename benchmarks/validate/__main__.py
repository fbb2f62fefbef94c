"""The simulator against a real engine on this machine, with coefficients fitted from it.

    python -m benchmarks.validate --engine vllm --cell document=1,2 --cell unique=2

1. `fit`: a server is timed with controlled requests (`controlled`), from which the
   coefficients follow (`fit`), and profile.json, which `preble simulate --hardware` takes.
   Several such runs are put together.
2. `run`: each workload, rate and policy gets a new server, as a scheduler remembers what it
   was asked (`--keep`: other prompts instead); the policies take turns. A short workload
   after each run tells the efficiency (`compare`). No request of these was seen by the fit.
3. `report`: the same requests in the simulator, and both side by side. Runs during which
   other programs took more than `--most-foreign` cores are left out.

What one step wrote into --out the later ones read: `--steps report` asks no engine.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import msgspec

from benchmarks.validate import controlled, stage
from benchmarks.validate.asking import replay
from benchmarks.validate.compare import (
    PACING,
    Run,
    at,
    beside,
    efficiency,
    heard,
    simulated,
)
from benchmarks.validate.fit import Sample, fit, mean
from benchmarks.validate.report import report
from benchmarks.validate.scaling import SCALES, Cell
from preble_plugin.bench.foreign import ForeignLoad
from preble_plugin.bench.server import Server, ServerError
from preble_plugin.bench.tiny_model import make_tiny_model

STEPS = ("fit", "run", "report")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    # SIGTERM ends as Ctrl-C does: through the blocks that stop the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if {"fit", "run"} & set(options.steps):
            _on_engine(options)
        if "report" in options.steps:
            print(_report(options))
    except (ServerError, RuntimeError, ValueError, OSError) as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    return 0


def _on_engine(options: argparse.Namespace) -> None:
    model = make_tiny_model(options.model, shape=stage.SHAPE)

    @contextmanager
    def served(policy: str) -> Iterator[Server]:
        log = options.out / f"{policy}.log"
        with stage.server(options.engine, policy, model, log, options.standins) as server:
            stage.settle(server)
            stage.warm(server)
            yield server

    if "fit" in options.steps:
        with served(options.policy[0]) as server:
            _fit(options, server)
    if "run" in options.steps:
        for _ in range(options.repeat):
            for cells in _cells(options):
                for policy in options.policy:
                    with served(policy) as server:
                        for cell in cells:
                            _run(options, server, policy, cell)


def _fit(options: argparse.Namespace, server: Server) -> None:
    foreign = ForeignLoad(server.cpu_seconds)
    samples = controlled.time_requests(
        server.base_url, server.served_name, stage.RANKS, options.repeat_fit, options.seed + 1000
    )
    with (options.out / "samples.jsonl").open("ab") as file:
        file.write(msgspec.json.encode(samples) + b"\n")
    scatter = controlled.scatter(samples)
    print(f"{len(samples)} timings, scatter {scatter:.1%}, {foreign.cores():.2f} cores by others")


def _run(options: argparse.Namespace, server: Server, policy: str, cell: Cell) -> None:
    foreign = ForeignLoad(server.cpu_seconds)
    answers = replay(server.base_url, server.served_name, cell.workload())
    others = foreign.cores()
    stage.empty_caches(options.engine, server)
    paced = replay(server.base_url, server.served_name, PACING.workload(), stage.RANKS)
    run = Run(options.engine, policy, cell, others, paced, answers)
    with (options.out / "runs.jsonl").open("ab") as file:
        file.write(msgspec.json.encode(run) + b"\n")
    found = heard(run)
    print(
        f"{policy} {cell.name} at {cell.rate:g}/s: {len(answers)} requests, "
        f"TTFT {found.mean_ttft * 1e3:.0f} ms, latency {found.mean_latency * 1e3:.0f} ms, "
        f"cached {found.cached_share:.1%}; {run.foreign_cores:.2f} cores by others",
        flush=True,
    )


def _report(options: argparse.Namespace) -> str:
    samples = [
        sample
        for line in (options.out / "samples.jsonl").read_bytes().splitlines()
        for sample in msgspec.json.decode(line, type=list[Sample])
    ]
    fitted = fit(mean(samples), stage.limits(options.engine))
    path = options.out / "runs.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    done = [msgspec.json.decode(line, type=Run) for line in lines]
    runs = [run for run in done if run.foreign_cores <= options.most_foreign]
    on = stage.RANKS, stage.BLOCKS[options.engine]
    paces = [efficiency(run.paced, fitted, *on) for run in runs]
    fitted = at(fitted, statistics.median(paces)) if paces else fitted
    profile = msgspec.json.format(msgspec.json.encode(fitted.hardware), indent=2)
    (options.out / "profile.json").write_bytes(profile + b"\n")
    (options.out / "fitted.json").write_bytes(msgspec.json.encode(fitted))
    rows = []
    for (cell, policy), same in groupby(sorted(runs, key=_kind), _kind):
        rounds = list(same)
        in_core = stage.SIMULATED_AS[options.engine] if policy == stage.OWN else policy
        sim = simulated(cell.workload(), fitted, in_core, *on)
        rows.append(beside(rounds[0], [heard(run) for run in rounds], sim))
    (options.out / "rows.json").write_bytes(msgspec.json.encode(rows))
    left_out = f"- {len(done) - len(runs)} of {len(done)} runs left out for foreign load\n"
    text = report(options.engine, fitted, paces, rows) + left_out
    (options.out / "report.md").write_text(text, encoding="utf-8")
    return text


def _kind(run: Run) -> tuple[Cell, str]:
    return run.cell, run.policy


def _cells(options: argparse.Namespace) -> Iterator[list[Cell]]:
    """Those of one server. Where it is kept for several rates, each has prompts of its own."""
    for name, rates in options.cell:
        cells = [
            Cell(name, rate, round(rate * options.seconds), options.seed + options.keep * number)
            for number, rate in enumerate(rates)
        ]
        yield from [cells] if options.keep else ([one] for one in cells)


def _cell(text: str) -> tuple[str, list[float]]:
    name, _, rates = text.partition("=")
    if name not in SCALES or not rates:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no WORKLOAD=RATE,...; workloads: {', '.join(SCALES)}"
        )
    return name, [float(rate) for rate in rates.split(",")]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.validate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--engine", choices=stage.ENGINES, default="vllm")
    add("--policy", default=f"{stage.OWN},e2", help=f"{stage.OWN} is the engine's own dispatch")
    add("--cell", type=_cell, action="append", default=[], help="WORKLOAD=RATE,...; repeatable")
    add("--seconds", type=float, default=45.0, help="of arrivals of each run")
    add("--seed", type=int, default=1, help="of the workloads")
    add("--keep", action="store_true", help="keep a server for all rates of a workload")
    add("--repeat", type=int, default=1, help="rounds of each run")
    add("--repeat-fit", type=int, default=1, help="rounds of the controlled requests, a server")
    add("--steps", default=",".join(STEPS), help=f"of {', '.join(STEPS)}")
    add("--most-foreign", type=float, default=0.2, help="cores that others may take in a run")
    add("--standins", type=Path, help="what SGLang imports and a CPU has no wheel of: directory")
    add("--model", type=Path, default=Path(".cache/validate-model"), help="made if not there")
    add("--out", type=Path, help="chosen: build/validate/ENGINE")
    options = parser.parse_args(arguments)
    options.policy = options.policy.split(",")
    options.steps = options.steps.split(",")
    if unknown := set(options.steps) - set(STEPS):
        parser.error(f"no such step: {', '.join(unknown)} (there are: {', '.join(STEPS)})")
    options.out = options.out or Path("build/validate") / options.engine
    options.out.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    sys.exit(main())
