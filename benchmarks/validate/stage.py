"""Real servers of two ranks that are timed.

Nothing but the ranks may take much of a core where there are as many cores as ranks:
one front end, a chunk for the first token and one for the rest, and vLLM's worker in its
engine core's process, as two processes of a rank would spin while they wait for each
other. Each rank has a core of its own, and what is not computing goes first there
(`settle`).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import httpx

from benchmarks.validate.asking import complete, ids
from preble_plugin.bench.engines import Sglang, Vllm
from preble_plugin.bench.open_loop import connected
from preble_plugin.bench.plan import Plan
from preble_plugin.bench.server import Server, members
from preble_plugin.bench.sglang_server import PAGE_SIZE, SglangServer
from preble_plugin.bench.tiny_model import Shape
from preble_plugin.bench.vllm_server import BLOCK_SIZE, VllmServer
from preble_plugin.sim.hardware import DecodeAttention, Hardware, LinearPiece, PrefillAttention

RANKS: Final = 2
KV_TOKENS: Final = 6144
BATCH_TOKENS: Final = 512
MAX_RUNNING: Final = 32
SHAPE: Final = Shape(hidden=512, layers=6, heads=8, kv_heads=2, head_dim=64, intermediate=1536)
"""18 M parameters beside the embeddings: 0.5 s for 1,000 tokens on a core."""
OWN: Final = "own"
"""The engine's own dispatch."""
SIMULATED_AS: Final = {"vllm": "least-loaded", "sglang": "round-robin"}
"""What the engines' own dispatch is called in core."""
BLOCKS: Final = {"vllm": BLOCK_SIZE, "sglang": PAGE_SIZE}
ENGINES: Final = tuple(BLOCKS)
RANK_PROCESS: Final = re.compile(r"EngineCore_DP(\d+)|sglang::scheduler_DP(\d+)")
"""Titles of the processes that compute, in their main thread."""
CONTROLLER: Final = "sglang::data_parallel_controller"

COMMON: Final = ("--stream-interval", "100000")
"""A chunk for the first token and one for the rest."""


def server(engine: str, policy: str, model: Path, log: Path, standins: Path | None) -> Server:
    """A server of `engine` that places by `policy`, not yet started."""
    # vLLM keeps one block for itself.
    cache_tokens = KV_TOKENS + (BLOCK_SIZE if engine == "vllm" else 0)
    settings = json.dumps({"policy": policy})
    plan = Plan(cache_tokens=cache_tokens, front_ends=1, settings=settings)
    side = "default" if policy == OWN else "preble"
    if engine == "vllm":
        vllm = Vllm()
        arguments = [
            *vllm.arguments(side, plan),
            *COMMON,
            *("--max-model-len", "4096"),
            *("--max-num-batched-tokens", str(BATCH_TOKENS)),
            *("--max-num-seqs", str(MAX_RUNNING)),
            *("--distributed-executor-backend", "uni"),
        ]
        # The first is for /reset_prefix_cache, the second for an executor without processes.
        more = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        return VllmServer(model, log, arguments, {**vllm.environment, **more})
    sglang = Sglang(standins)
    arguments = [
        *sglang.arguments(side, plan),
        *COMMON,
        *("--chunked-prefill-size", str(BATCH_TOKENS)),
        *("--max-running-requests", str(MAX_RUNNING)),
    ]
    return SglangServer(model, log, arguments, sglang.environment)


def settle(running: Server) -> None:
    """Give each rank's computing thread a core of its own, and all other threads (but a
    controller, which may spin) real-time precedence: they do little, and would wait
    hundreds of milliseconds behind computing.

    Raises `RuntimeError` where the ranks are not found, or precedence is not allowed.
    """
    pinned = set()
    for process in members(running.pid):
        title = " ".join(process.cmdline())
        threads = {thread.id for thread in process.threads()}
        if found := RANK_PROCESS.search(title):
            rank = int(found[1] or found[2])
            os.sched_setaffinity(process.pid, {rank})
            pinned.add(rank)
            threads.remove(process.pid)
        elif CONTROLLER in title:
            continue
        take_precedence(threads)
    if len(pinned) != RANKS:
        raise RuntimeError(f"{RANKS} ranks were to be pinned, found {sorted(pinned)}")
    take_precedence({threading.get_native_id()})


def take_precedence(threads: Iterable[int]) -> None:
    """Let these run before any that compute. Raises `RuntimeError` where that is not allowed."""
    # Not for what they start: a server started from here computes as any other.
    policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
    for thread in threads:
        try:
            os.sched_setscheduler(thread, policy, os.sched_param(1))
        except PermissionError:
            raise RuntimeError(
                "the server's threads beside computing need real-time precedence: "
                "run as root, or with CAP_SYS_NICE"
            ) from None
        except ProcessLookupError:
            continue


def limits(engine: str) -> Hardware:
    """A profile with the limits of these servers, and no coefficients yet."""
    return Hardware(
        name=f"{engine}-tiny-cpu",
        source="fitted by benchmarks.validate from controlled requests",
        kv_tokens=KV_TOKENS,
        batch_tokens=BATCH_TOKENS,
        max_running=MAX_RUNNING,
        linear=(LinearPiece(0, 0.0),),
        prefill=PrefillAttention(),
        decode=DecodeAttention(),
    )


def warm(running: Server) -> None:
    """A few requests on each rank, so that no run pays what only a server's first cost.

    Raises `RuntimeError` where one fails.
    """
    asyncio.run(_on_each_rank(running, (600, 40, 600)))


def empty_caches(engine: str, running: Server) -> None:
    """Empty the cache of each rank, and have each tell so.

    Raises `RuntimeError` where the server does not.
    """
    reset_caches(engine, running)
    asyncio.run(_on_each_rank(running, (20,)))


def reset_caches(engine: str, running: Server) -> None:
    """Empty them; the next request has each rank tell so. Raises `RuntimeError`."""
    path = "/reset_prefix_cache" if engine == "vllm" else "/flush_cache"
    answer = httpx.post(running.base_url + path, timeout=30.0, trust_env=False)
    if answer.status_code != 200 or '"success":false' in answer.text:
        raise RuntimeError(f"the caches were not emptied: {answer.status_code} {answer.text}")


async def _on_each_rank(running: Server, prompts: Sequence[int]) -> None:
    async with connected(running.base_url) as client:

        async def one_by_one(rank: int) -> None:
            for number, tokens in enumerate(prompts):
                prompt = ids(1_000_000 + number * RANKS + rank, tokens)
                came = await complete(client, running.served_name, prompt, 8, rank=rank)
                if came.error is not None:
                    raise RuntimeError(f"rank {rank} does not answer: {came.error}")

        await asyncio.gather(*map(one_by_one, range(RANKS)))
