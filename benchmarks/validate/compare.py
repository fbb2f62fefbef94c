"""A run on a real engine beside the same run in the simulator.

1. The simulator gets the very requests, at the times at which they were due, and the
   fitted profile. It knows no front end: what that takes is added to each first token
   and end, and to the pause of what comes after.
2. A replica under load waits for what controlled requests hardly ask of the machine: the
   front end, its own threads, other programs. So after each run another workload
   (`PACING`) is asked of the server, on both ranks in turn. The `efficiency` that gives
   its mean latency in the simulator, the middle one of all runs, is that of the profile.
3. Both are summed up by the simulator's own figures, the first tenth of the requests,
   by arrival, left out.
4. Policies are *ranked* by mean latency. Two orders are the same where every pair lies
   the same way round, or is within `TIE` of each other in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from math import sqrt
from typing import Final

import msgspec

from benchmarks.validate.asking import Heard
from benchmarks.validate.fit import Fitted, Front
from benchmarks.validate.scaling import Cell
from preble_plugin.sim.asked import Asked
from preble_plugin.sim.figures import Figures, figures
from preble_plugin.sim.fleet import Fleet, Served

TIE: Final = 0.05
PACING: Final = Cell("tool", rate=5.0, requests=60, seed=1001)
IN_TURN: Final = "round-robin"
SLOWEST, FASTEST, HALVINGS = 0.25, 2.5, 12


class Run(msgspec.Struct, frozen=True):
    """One workload on a real server under one policy."""

    engine: str
    policy: str
    cell: Cell
    foreign_cores: float
    """Cores that other programs took meanwhile."""
    paced: list[Heard]
    """`PACING` just after, on the same server."""
    heard: list[Heard]


class Beside(msgspec.Struct, frozen=True):
    """Real and simulated; times in seconds."""

    workload: str
    rate: float
    policy: str
    rounds: int
    ttft: float
    simulated_ttft: float
    latency: float
    simulated_latency: float
    cached: float
    simulated_cached: float
    spread: float
    """Of the real rounds' mean latency: the highest less the lowest, over their mean."""


def efficiency(paced: Sequence[Heard], fitted: Fitted, replicas: int, block_size: int) -> float:
    """That with which the simulator takes as long for `PACING` as it took."""
    workload, wanted = PACING.workload(), summed(paced).mean_latency
    low, high = SLOWEST, FASTEST
    for _ in range(HALVINGS):
        middle = sqrt(low * high)
        took = simulated(workload, at(fitted, middle), IN_TURN, replicas, block_size).mean_latency
        low, high = (middle, high) if took > wanted else (low, middle)
    return sqrt(low * high)


def at(fitted: Fitted, efficiency: float) -> Fitted:
    """The same at another efficiency."""
    hardware = msgspec.structs.replace(fitted.hardware, efficiency=efficiency)
    return msgspec.structs.replace(fitted, hardware=hardware)


def simulated(
    workload: Sequence[Asked], fitted: Fitted, policy: str, replicas: int, block_size: int
) -> Figures:
    """The run as the simulator has it, front end included."""
    front = fitted.front
    delayed = [
        one
        if one.after is None
        else msgspec.structs.replace(one, at=one.at + front.of(one.prompt_tokens))
        for one in workload
    ]
    fleet = Fleet(fitted.hardware, replicas, policy, block_size=block_size)
    return figures((_with_front(one, front) for one in fleet.serve(delayed)), replicas)


def heard(run: Run) -> Figures:
    """The run as it was heard. Raises `ValueError` for one in which a request failed."""
    failed = [one for one in (*run.paced, *run.heard) if one.error is not None]
    if failed:
        raise ValueError(
            f"{run.engine} {run.cell.name} at {run.cell.rate:g}/s by {run.policy}: "
            f"{len(failed)} requests failed, {failed[0].request_id}: {failed[0].error}"
        )
    return summed(run.heard)


def summed(answers: Iterable[Heard]) -> Figures:
    """Answers by the simulator's own figures."""
    return figures(
        (
            Served(
                request_id=one.request_id,
                replica=0,
                branch="",
                arrived=one.arrived,
                first_token=one.arrived + one.ttft,
                ended=one.arrived + one.latency,
                prompt_tokens=one.prompt_tokens,
                cached_tokens=one.cached_tokens,
                predicted_tokens=one.cached_tokens,
                output_tokens=one.output_tokens,
            )
            for one in answers
        ),
        1,
    )


def beside(run: Run, rounds: Sequence[Figures], sim: Figures) -> Beside:
    """Rounds of one run and its simulation; the middle round by mean latency stands for
    all."""
    ordered = sorted(rounds, key=lambda one: one.mean_latency)
    real = ordered[len(ordered) // 2]
    low, high = ordered[0].mean_latency, ordered[-1].mean_latency
    return Beside(
        workload=run.cell.name,
        rate=run.cell.rate,
        policy=run.policy,
        rounds=len(rounds),
        ttft=real.mean_ttft,
        simulated_ttft=sim.mean_ttft,
        latency=real.mean_latency,
        simulated_latency=sim.mean_latency,
        cached=real.cached_share,
        simulated_cached=sim.cached_share,
        spread=(high - low) / real.mean_latency,
    )


def same_order(rows: Iterable[Beside]) -> bool:
    """Whether the simulator ranks the policies of one workload and rate as they are."""
    return all(_agree(first, second) for first, second in combinations(list(rows), 2))


def _agree(first: Beside, second: Beside) -> bool:
    real = second.latency / first.latency
    sim = second.simulated_latency / first.simulated_latency
    if all(abs(ratio - 1) <= TIE for ratio in (real, sim)):
        return True
    return (real > 1) == (sim > 1)


def _with_front(one: Served, front: Front) -> Served:
    seconds = front.of(one.prompt_tokens)
    return one._replace(first_token=one.first_token + seconds, ended=one.ended + seconds)
