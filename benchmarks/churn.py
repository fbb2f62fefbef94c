"""Steady churn for a million requests: place, store, evict, finish; time and memory."""

from __future__ import annotations

import gc
import random
import statistics
import time
import tracemalloc
from array import array
from collections import deque
from typing import Any, Final

import numpy as np

from benchmarks.measure import SEED, VOCABULARY, resident_bytes
from preble_plugin.core import Finished, FirstToken, Remove, Request, Scheduler, Store, Trust

REPLICAS: Final = 8
CAPACITY_BLOCKS: Final = 4_000
BLOCK: Final = 16
SHARED_BLOCKS: Final = 28
OWN_BLOCKS: Final = 4
DOCUMENTS: Final = 400
SETTLED: Final = 0.1
"""Share of the requests after which everything there is has been seen."""


def churn(requests: int) -> dict[str, Any]:
    """Cost of a placement and memory at the start and at the end of a life."""
    choose = random.Random(5)
    numbers = np.random.default_rng(5)
    scheduler = Scheduler(BLOCK, seed=SEED)
    for replica in range(REPLICAS):
        scheduler.add_replica(replica, capacity_blocks=CAPACITY_BLOCKS)
        scheduler.set_trust(replica, Trust.EXACT)

    def tokens(blocks: int) -> list[int]:
        drawn: list[int] = numbers.integers(0, VOCABULARY, blocks * BLOCK).tolist()
        return drawn

    documents = [tokens(SHARED_BLOCKS) for _ in range(DOCUMENTS)]
    # By replica, what it holds: documents by number, and the runs in order of use.
    holding: list[dict[int, list[int]]] = [{} for _ in range(REPLICAS)]
    tails: list[deque[list[int]]] = [deque() for _ in range(REPLICAS)]
    blocks = [0] * REPLICAS
    seconds = array("d", bytes(8 * requests))
    marks: list[int] = []
    now = 0.0
    for number in range(requests):
        now += 0.002
        which = choose.randrange(DOCUMENTS)
        prompt = documents[which] + tokens(OWN_BLOCKS)
        request_id = str(number)
        began = time.perf_counter()
        keys = scheduler.hasher.prompt_keys(prompt)
        placed = scheduler.place(Request(request_id, keys, len(prompt)), now)
        seconds[number] = time.perf_counter() - began
        replica = int(placed.replica)
        held = holding[replica]
        events: list[Store | Remove] = []
        if which not in held:
            held[which] = numbers.integers(1, 1 << 63, SHARED_BLOCKS).tolist()
            events.append(Store(held[which], None, documents[which], BLOCK))
            blocks[replica] += SHARED_BLOCKS
        tail = numbers.integers(1, 1 << 63, OWN_BLOCKS).tolist()
        events.append(Store(tail, held[which][-1], prompt[SHARED_BLOCKS * BLOCK :], BLOCK))
        tails[replica].append(tail)
        blocks[replica] += OWN_BLOCKS
        while blocks[replica] > CAPACITY_BLOCKS:
            if len(tails[replica]) > 100:
                gone = tails[replica].popleft()
            else:
                gone = held.pop(next(iter(held)))
            blocks[replica] -= len(gone)
            events.append(Remove(gone[::-1]))
        scheduler.apply(replica, events, now)
        scheduler.observe(replica, [FirstToken(request_id, placed.cached_tokens)], now + 0.001)
        scheduler.observe(replica, [Finished(request_id, 3)], now + 0.001)
        if number and number % (requests // 20) == 0:
            gc.collect()
            marks.append(resident_bytes())
    # The first are those after which the caches are full.
    span = min(20_000, requests // 4)
    settled = marks[int(len(marks) * SETTLED)]
    return {
        "what": "churn",
        "requests": requests,
        "early_p50_us": round(statistics.median(seconds[span : 2 * span]) * 1e6, 1),
        "late_p50_us": round(statistics.median(seconds[-span:]) * 1e6, 1),
        "resident_settled_mb": round(settled / 1e6, 1),
        "resident_end_mb": round(marks[-1] / 1e6, 1),
        "growth_percent": round((marks[-1] - settled) / settled * 100, 2),
        "tree_nodes": scheduler.status(now).tree_nodes,
    }


def memory(blocks: int, block: int, replicas: int, run: int) -> dict[str, Any]:
    """Bytes of a block that `replicas` each hold, stored in runs of `run` blocks,
    over the replicas: engine hashes as 64-bit integers included."""
    numbers = np.random.default_rng(6)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    scheduler = Scheduler(block, seed=SEED)
    for replica in range(replicas):
        scheduler.add_replica(replica)
    for _ in range(blocks // run):
        tokens = array("I", numbers.integers(0, VOCABULARY, run * block, dtype="u4").tobytes())
        for replica in range(replicas):
            names = numbers.integers(1, 1 << 63, run).tolist()
            scheduler.apply(replica, [Store(names, None, tokens, block)], 0.0)
    del tokens, names
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "what": "memory",
        "block": block,
        "replicas": replicas,
        "run": run,
        "bytes_per_block_and_replica": round((after - before) / blocks / replicas, 1),
    }
