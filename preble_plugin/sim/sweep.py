"""Many runs: workloads x rates x policies x local queues x seeds, each a cell of its own.

1. A cell is one fleet under one workload. Cells know nothing of each other, so that
   they can run in processes of their own.
2. Results come in the order of the cells, whoever is ready first.
3. A cell that fails has an error in place of figures; the others go on.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from difflib import get_close_matches
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import msgspec

from preble_plugin.core.policies.registry import load_policy, policy_names
from preble_plugin.sim.asked import Asked
from preble_plugin.sim.beyond import ABLATIONS, CLAIRVOYANT
from preble_plugin.sim.figures import WARM_UP, Figures, figures
from preble_plugin.sim.fleet import Fleet
from preble_plugin.sim.hardware import Hardware
from preble_plugin.sim.trace import read_trace
from preble_plugin.sim.workloads import WORKLOADS, make

QUEUED: Final = "+queue"

FLEET_OF_RATES: Final = 4
"""Replicas that `RATES` are for; other fleets get as much for each replica."""

RATES: Final[Mapping[str, tuple[float, ...]]] = {
    # The paper's figures for Mistral-7B on 4 A6000: the least, one between, the most.
    "tool": (10, 20, 30),
    "agent": (10, 20, 30),
    "programming": (2, 5, 8),
    "video": (2.5, 5, 10),
    "document": (0.5, 1, 2),
    # For the others up to where round robin saturates there.
    "tool-zipf": (10, 20, 30),
    "hot": (10, 20, 40),
    "unique": (3, 6, 12),
    "bursts": (16, 32, 64),
    "chat": (10, 20, 40),
    "large": (0.5, 1, 2),
    "document-real": (0.5, 1, 2),
    "video-real": (2.5, 5, 10),
    "mixed-azure": (2.5, 5, 10),
    "mooncake": (0.5, 1, 2),
}
"""Requests per second of a workload at a low, a medium and a high load."""


class Cell(msgspec.Struct, frozen=True):
    """One run to be. A trace has no seed, and no rate where it keeps its own."""

    workload: str
    rate: float | None
    """Requests per second."""
    policy: str
    seed: int | None
    local_queue: bool = False
    """Whether each replica takes up what waits by core's local queue."""


class Result(msgspec.Struct, frozen=True):
    """One run that was: figures, or the error in their place."""

    workload: str
    rate: float | None
    policy: str
    seed: int | None
    figures: Figures | None
    error: str | None
    local_queue: bool = False


class Setup(msgspec.Struct, frozen=True):
    """What all cells have in common."""

    hardware: Hardware
    replicas: int
    requests: int
    """Of a cell."""
    block_size: int = 16
    warm_up: float = WARM_UP
    options: dict[str, dict[str, object]] = {}
    """What each workload is told beyond requests, rate and seed."""
    trace: Path | None = None
    """Replayed in place of a workload made here."""
    lockstep: bool = False
    """The replicas take their steps together."""


def all_policies() -> dict[str, str]:
    """What `Cell.policy` may be, with a line on each: core's policies, and those that
    only the simulator has."""
    lines = {}
    for name in policy_names():
        try:
            words = load_policy(name).__doc__ or ""
        except ValueError as error:
            words = str(error)
        lines[name] = " ".join(words.split("\n\n")[0].split()).split(". ")[0].rstrip(".")
    return {**lines, **CLAIRVOYANT, **ABLATIONS}


def label_of(one: Cell | Result) -> str:
    """What stands for its policy beside others: with a local queue `POLICY+queue`."""
    return f"{one.policy}{QUEUED}" if one.local_queue else one.policy


def check_names(kind: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raises ValueError for a name that is not among `known`, with those there are."""
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 2)
            meant = f", did you mean {' or '.join(map(repr, near))}?" if near else "."
            raise ValueError(f"no {kind} {name!r}{meant} There are: {', '.join(known)}")


def default_rates(workload: str, replicas: int) -> tuple[float, ...]:
    """`RATES` of a workload for that many replicas."""
    return tuple(rate * replicas / FLEET_OF_RATES for rate in RATES[workload])


def typed_options(
    workloads: Sequence[str], given: Mapping[str, str]
) -> dict[str, dict[str, object]]:
    """Each option for each of the workloads that takes it, in the type of its default.

    Raises ValueError for an option that none takes, and for a value of another type.
    """
    taken: dict[str, dict[str, object]] = {name: {} for name in workloads}
    known = {key for name in workloads for key in WORKLOADS[name].parameters}
    check_names("option of these workloads", given, sorted(known))
    for name in workloads:
        for key, default in WORKLOADS[name].parameters.items():
            if key in given:
                taken[name][key] = _typed(f"{name}: {key}", given[key], default)
    return taken


def _typed(what: str, text: str, default: object) -> object:
    kind = type(default) if isinstance(default, int | float) else str
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
        raise ValueError(
            f"{what} takes {kind.__name__} (default {default}), got {text!r}"
        ) from None


def asked_of(cell: Cell, setup: Setup) -> Sequence[Asked]:
    """The requests of a cell. Raises ValueError, naming what cannot be."""
    if setup.trace is not None:
        return read_trace(setup.trace, rate=cell.rate)[: setup.requests]
    assert cell.rate is not None
    assert cell.seed is not None
    return make(
        cell.workload,
        requests=setup.requests,
        rate=cell.rate,
        seed=cell.seed,
        **setup.options.get(cell.workload, {}),
    )


def run_cell(cell: Cell, setup: Setup, progress: Callable[[], object] | None = None) -> Result:
    """Run one cell; `progress` is called with each request that ends. Raises nothing
    but what interrupts."""
    found, error = None, None
    try:
        asked = asked_of(cell, setup)
        fleet = Fleet(
            setup.hardware,
            setup.replicas,
            cell.policy,
            local_queue=cell.local_queue,
            lockstep=setup.lockstep,
            block_size=setup.block_size,
        )
        found = figures(fleet.serve(asked, progress), setup.replicas, setup.warm_up)
    except Exception as cause:
        error = _words(cause)
    return _result(cell, found, error)


def _result(cell: Cell, found: Figures | None, error: str | None) -> Result:
    return Result(cell.workload, cell.rate, cell.policy, cell.seed, found, error, cell.local_queue)


def run_cells(
    cells: Sequence[Cell],
    setup: Setup,
    jobs: int = 1,
    progress: Callable[[], object] | None = None,
) -> Iterator[Result]:
    """Run cells, `jobs` at a time, in processes of their own where `jobs` is above 1;
    `progress` is called with each request that ends here, so in one process alone."""
    if jobs == 1:
        for cell in cells:
            yield run_cell(cell, setup, progress)
        return
    with ProcessPoolExecutor(min(jobs, len(cells)), get_context("spawn")) as pool:
        futures = [pool.submit(run_cell, cell, setup) for cell in cells]
        try:
            for cell, future in zip(cells, futures, strict=True):
                try:
                    yield future.result()
                except Exception as cause:  # The process died, of no memory perhaps.
                    yield _result(cell, None, _words(cause))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _words(cause: Exception) -> str:
    """A ValueError says itself what is wrong; of any other error, where it was raised."""
    if isinstance(cause, ValueError):
        return str(cause)
    place = traceback.extract_tb(cause.__traceback__)[-1]
    return f"{type(cause).__name__}: {cause} ({Path(place.filename).name}:{place.lineno})"
