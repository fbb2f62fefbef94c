"""`benchmarks.local_queue` without a model: vLLM's real scheduler, and a clock of its own.

    python -m benchmarks.local_queue_modelled [--rounds 5]

1. The scheduler, its cache and its queue run in this process, as the tests run them.
2. A step takes `STEP_SECONDS`, and `TOKEN_SECONDS` for each token that it computes, which
   is about the pace of the tiny model on a core. So what others do on the machine changes
   nothing, and equal seeds give equal figures.
3. Clients, lists and figures are those of `benchmarks.local_queue`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any, Final

from benchmarks.local_queue import (
    CACHE_TOKENS,
    CLIENTS,
    PREBLE,
    RUNNING,
    Answered,
    Ask,
    Run,
    asks,
    table,
)
from preble_plugin.bench.vllm_server import CPU_ENVIRONMENT
from tests.vllm.in_process import BLOCK, Core

STEP_SECONDS: Final = 0.012
TOKEN_SECONDS: Final = 1.2e-4


def drive(kind: type[Any], listed: Sequence[Ask], clients: int) -> list[Answered]:
    """Send what is listed, `clients` at a time, until all is answered."""
    core = Core(
        kind, blocks=CACHE_TOKENS // BLOCK, max_num_seqs=RUNNING, max_num_batched_tokens=2048
    )
    now, coming = 0.0, iter(enumerate(listed))
    asked: dict[str, Ask] = {}
    sent: dict[str, float] = {}
    first: dict[str, float] = {}
    ended: dict[str, float] = {}

    def send() -> None:
        for number, ask in coming:
            asked[str(number)], sent[str(number)] = ask, now
            core.add(str(number), ask.prompt, tokens=ask.output_tokens)
            return

    for _ in range(clients):
        send()
    while len(ended) < len(listed):
        before = dict(core.said)
        core.step()
        now += STEP_SECONDS + TOKEN_SECONDS * core.computed
        for name, said in list(core.said.items()):
            if said == before.get(name, 0):
                continue
            first.setdefault(name, now)
            if said == asked[name].output_tokens:
                ended[name] = now
                send()
    return [
        Answered(
            ask.document,
            sent[name],
            first[name],
            ended[name],
            len(ask.prompt),
            core.hits[name],
            None,
        )
        for name, ask in asked.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.local_queue_modelled", description=__doc__
    )
    parser.add_argument("--rounds", type=int, default=5, help="seeds")
    options = parser.parse_args(arguments)
    os.environ.update(CPU_ENVIRONMENT)
    from vllm.v1.core.sched.scheduler import Scheduler

    from preble_plugin.vllm_ext.schedulers import PrebleScheduler

    sides = {"own": Scheduler, PREBLE: PrebleScheduler}
    for clients in CLIENTS:
        runs = [
            Run(side, number, clients, drive(kind, asks(seed=number), clients), 0.0)
            for number in range(options.rounds)
            for side, kind in sides.items()
        ]
        print(f"{clients} clients\n\n{table(runs, list(sides))}")


if __name__ == "__main__":
    main()
