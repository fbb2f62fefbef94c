"""Front ends and the scheduler process: round trips, and eight of them at once.

By itself it is one front end:

    python -m benchmarks.front_ends ADDRESS NAME REQUESTS OUTSTANDING
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from typing import Any

from preble_plugin.core import Finished, FirstToken, Placement, Request
from preble_plugin.service.interface import ReplicaSpec
from preble_plugin.service.remote import RemoteFrontend
from preble_plugin.service.supervisor import SchedulerProcess
from preble_plugin.settings import Settings

BLOCK = 16
TOKENS = 2048
REPLICAS = 8
PATIENT = Settings(placement_deadline_seconds=10.0)


async def front_end(address: str, name: str, requests: int, outstanding: int) -> list[float]:
    """Seconds of each placement, `outstanding` at a time; keys are hashed before."""
    front = RemoteFrontend(address, PATIENT)
    front.set_replicas([ReplicaSpec(rank, BLOCK, 100_000) for rank in range(REPLICAS)])
    await front.start()
    while front.hasher is None:  # noqa: ASYNC110 (it has no event for that)
        await asyncio.sleep(0.01)
    choose = random.Random(name)
    documents = [choose.choices(range(128_000), k=TOKENS - 256) for _ in range(20)]
    prompts = [
        front.hasher.prompt_keys(documents[i % 20] + choose.choices(range(128_000), k=256))
        for i in range(200)
    ]
    took: list[float] = []

    async def one_after_another(first: int) -> None:
        for number in range(first, requests, outstanding):
            request_id = f"{name}-{number}"
            request = Request(request_id, prompts[number % 200], TOKENS, max_output_tokens=16)
            began = time.perf_counter()
            placement = await front.place(request)
            took.append(time.perf_counter() - began)
            if isinstance(placement, Placement):
                outcomes = [FirstToken(request_id, placement.cached_tokens)]
                front.observe(
                    placement.replica, [*outcomes, Finished(request_id, 16)], time.monotonic()
                )

    await asyncio.gather(*(one_after_another(first) for first in range(outstanding)))
    await front.close()
    return took


def measure(requests: int) -> list[dict[str, Any]]:
    """One front end with one placement outstanding, then eight with eight each."""
    scheduler = SchedulerProcess()
    address = scheduler.start(PATIENT)
    try:
        alone = _run(address, ["alone"], requests, 1)[0]
        together = _run(address, [f"front end {i}" for i in range(8)], requests, 8)
    finally:
        scheduler.stop()
    span = max(one["ended"] for one in together) - min(one["began"] for one in together)
    return [
        {
            "what": "round trip",
            "outstanding": 1,
            "p50_us": alone["p50_us"],
            "p99_us": alone["p99_us"],
        },
        {
            "what": "8 front ends",
            "outstanding": 64,
            "placements_per_s": round(8 * requests / span),
        },
    ]


def _run(address: str, names: list[str], requests: int, outstanding: int) -> list[dict[str, Any]]:
    arguments = [sys.executable, "-m", "benchmarks.front_ends", address]
    children = [
        subprocess.Popen(
            [*arguments, name, str(requests), str(outstanding)], stdout=subprocess.PIPE
        )
        for name in names
    ]
    return [json.loads(child.communicate()[0]) for child in children]


if __name__ == "__main__":
    began = time.monotonic()
    seconds = sorted(
        asyncio.run(front_end(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    )
    json.dump(
        {
            # Making the prompts is not part of it.
            "began": time.monotonic() - sum(seconds) / int(sys.argv[4]),
            "ended": time.monotonic(),
            "p50_us": round(statistics.median(seconds) * 1e6, 1),
            "p99_us": round(seconds[int(len(seconds) * 0.99)] * 1e6, 1),
        },
        sys.stdout,
    )
