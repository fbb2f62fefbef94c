"""`preble simulate`: policies on simulated replicas, compared.

1. Every name and every file is looked at before anything runs.
2. All cells run (`sim/sweep`), with a bar on a terminal. One that fails is told at the
   end, and what the others gave is shown all the same.
3. A table for people, `--json` for scripts, `--plot` for both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from preble_plugin.cli.simulate_page import need_matplotlib
from preble_plugin.cli.simulate_plots import draw_all
from preble_plugin.cli.simulate_table import comparison_text
from preble_plugin.cli.tables import table_text
from preble_plugin.core.policies.registry import load_policy
from preble_plugin.sim.beyond import ABLATIONS, CLAIRVOYANT
from preble_plugin.sim.figures import WARM_UP
from preble_plugin.sim.hardware import Hardware, hardware_names, load_hardware
from preble_plugin.sim.sweep import (
    QUEUED,
    Cell,
    Result,
    Setup,
    all_policies,
    check_names,
    default_rates,
    label_of,
    run_cells,
    typed_options,
)
from preble_plugin.sim.trace import read_trace
from preble_plugin.sim.workloads import WORKLOADS

REQUESTS: Final = 2000
BASELINE: Final = "round-robin"
BASE_OF_ABLATIONS: Final = "e2"


class Comparison(msgspec.Struct, frozen=True):
    """What was run and what came of it: the document that `--json` writes.

    `format` is raised when a field changes its meaning or goes; fields may come.
    """

    format: int
    hardware: Hardware
    replicas: int
    lockstep: bool
    block_size: int
    requests: int
    """Of each run; `warm_up` is the share of them that does not count."""
    warm_up: float
    workload_options: dict[str, dict[str, object]]
    baseline: str
    cells: list[Result]


def simulate(options: argparse.Namespace) -> int:
    """Run the command; its exit code: 0, or 1 with a word on stderr."""
    if options.list:
        print(_what_there_is())
        return 0
    try:
        if options.ablate:
            options.policy = list(dict.fromkeys([*options.policy, BASE_OF_ABLATIONS, *ABLATIONS]))
        setup, cells = _setup(options), _cells(options)
        baseline = _baseline(options, cells)
        for directory in _directories(options):
            directory.mkdir(parents=True, exist_ok=True)
        results = _run(cells, setup, options.jobs)
        comparison = Comparison(
            format=1,
            hardware=setup.hardware,
            replicas=setup.replicas,
            lockstep=setup.lockstep,
            block_size=setup.block_size,
            requests=setup.requests,
            warm_up=setup.warm_up,
            workload_options={name: given for name, given in setup.options.items() if given},
            baseline=baseline,
            cells=results,
        )
        print(_caption(options, comparison))
        print(comparison_text(results, baseline))
        if options.json:
            options.json.write_bytes(msgspec.json.encode(comparison) + b"\n")
        if options.plot:
            for path in draw_all(results, _fleet_words(comparison), options.plot):
                print(f"wrote {path}", file=sys.stderr)
    except (ValueError, OSError) as error:
        print(f"preble: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("preble: interrupted", file=sys.stderr)
        return 130
    failed = [one for one in results if one.error is not None]
    for one in failed:
        print(f"preble: {_cell_words(one)}: {one.error}", file=sys.stderr)
    return 1 if failed else 0


# -- what is to be run -----------------------------------------------------------------


def _setup(options: argparse.Namespace) -> Setup:
    if options.plot:
        need_matplotlib()
    if not (options.workload or options.trace):
        raise ValueError("give --workload NAME or --trace FILE; --list says what there is")
    check_names("workload", options.workload or (), WORKLOADS)
    check_names("policy", options.policy, all_policies())
    for name in options.policy:
        if name not in CLAIRVOYANT and name not in ABLATIONS:
            load_policy(name)
    if options.trace and (options.workload_option or options.seed):
        given = "--workload-option" if options.workload_option else "--seed"
        raise ValueError(f"{given} is for workloads that are made; a trace is what it is")
    requests = options.requests or REQUESTS
    if options.trace:
        requests = len(read_trace(options.trace)[: options.requests])
    return Setup(
        hardware=load_hardware(options.hardware),
        replicas=options.replicas,
        requests=requests,
        lockstep=options.lockstep,
        block_size=options.block_size,
        warm_up=WARM_UP if options.warm_up is None else options.warm_up,
        options=typed_options(options.workload or (), dict(options.workload_option)),
        trace=options.trace,
    )


def _cells(options: argparse.Namespace) -> list[Cell]:
    if options.trace:
        name, rates = options.trace.stem, options.rate or [None]
        return [
            Cell(name, rate, policy, None, queue)
            for rate in rates
            for policy in options.policy
            for queue in options.local_queue
        ]
    return [
        Cell(name, rate, policy, seed, queue)
        for name in options.workload
        for rate in options.rate or default_rates(name, options.replicas)
        for policy in options.policy
        for queue in options.local_queue
        for seed in options.seed or [1]
    ]


def _baseline(options: argparse.Namespace, cells: Sequence[Cell]) -> str:
    labels = list(dict.fromkeys(label_of(cell) for cell in cells))
    if options.baseline is None:
        wanted = BASE_OF_ABLATIONS if options.ablate else BASELINE
        return next((one for one in labels if one.removesuffix(QUEUED) == wanted), labels[0])
    check_names("policy to compare with among those that run", [options.baseline], labels)
    return str(options.baseline)


def _directories(options: argparse.Namespace) -> Iterator[Path]:
    if options.json:
        yield options.json.parent
    if options.plot:
        yield options.plot


# -- running ---------------------------------------------------------------------------


def _run(cells: Sequence[Cell], setup: Setup, jobs: int) -> list[Result]:
    results = []
    with _bar(setup.requests * len(cells)) as (advance, reach):
        for result in run_cells(cells, setup, jobs, advance):
            results.append(result)
            reach(setup.requests * len(results))
    return results


@contextmanager
def _bar(total: int) -> Iterator[tuple[Callable[[], object], Callable[[int], object]]]:
    """A bar of requests on stderr where that is a terminal and tqdm is there: how to
    move it on by one, and to a place."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield (lambda: None), (lambda place: None)
        return
    with tqdm(total=total, unit=" requests", desc="simulating", disable=None, leave=False) as bar:
        yield bar.update, lambda place: bar.update(place - bar.n)


# -- words -----------------------------------------------------------------------------


def _caption(options: argparse.Namespace, comparison: Comparison) -> str:
    seeds = ""
    if not options.trace:
        named = ", ".join(map(str, options.seed or [1]))
        seeds = f", seed{'s' if ',' in named else ''} {named}"
    lines = [
        f"{_fleet_words(comparison)}, {comparison.requests} requests a run{seeds}; "
        f"the first {comparison.warm_up:.0%} of the requests do not count"
    ]
    if not (options.rate or options.trace):
        lines.append("rates: each workload's own (--rate takes others)")
    return "\n".join(lines)


def _fleet_words(comparison: Comparison) -> str:
    together = " in lockstep" if comparison.lockstep else ""
    return f"{comparison.replicas} x {comparison.hardware.name}{together}"


def _cell_words(one: Result) -> str:
    rate = "" if one.rate is None else f" at {one.rate:g} requests/s"
    seed = "" if one.seed is None else f", seed {one.seed}"
    return f"{one.workload}{rate} by {label_of(one)}{seed}"


def _what_there_is() -> str:
    workloads = []
    for workload in WORKLOADS.values():
        told = ", ".join(f"{key}={value}" for key, value in workload.parameters.items())
        workloads.append((workload.name, workload.summary, told))
    hardware = [(name, load_hardware(name).source.split(";")[0], "") for name in hardware_names()]
    return "\n\n".join(
        table_text((heading, "", words), rows)
        for heading, rows, words in (
            ("workloads", workloads, "options"),
            ("policies", [(name, line, "") for name, line in all_policies().items()], ""),
            ("hardware", hardware, ""),
        )
    )
