"""A long prefix that stays cached, placed again after many requests left it at random.

Each of these shares some of the prefix's blocks, goes on by itself, ends, and stores
nothing: code completed at the cursor, histories that are edited, retries.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from benchmarks.measure import SEED, VOCABULARY, summary
from preble_plugin.core import Finished, FirstToken, Request, Scheduler, Store, Trust

BLOCK: Final = 16
PREFIX_BLOCKS: Final = 8_000
OWN_BLOCKS: Final = 2
PROBES: Final = 60


def after(requests: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """A placement of the whole prefix after so many requests, one row for each."""
    choose = random.Random(8)
    scheduler = Scheduler(BLOCK, seed=SEED)
    scheduler.add_replica(0, capacity_blocks=100_000)
    scheduler.set_trust(0, Trust.EXACT)
    drawn = np.random.default_rng(8).integers(0, VOCABULARY, PREFIX_BLOCKS * BLOCK)
    tokens: list[int] = drawn.tolist()
    keys = scheduler.hasher.prompt_keys(tokens)
    key_bytes = len(keys) // PREFIX_BLOCKS
    scheduler.apply(0, [Store(list(range(1, PREFIX_BLOCKS + 1)), None, tokens, BLOCK)], 0.0)
    now, served = 1.0, 0

    def serve(name: str, prompt_keys: bytes, at: float) -> tuple[float, float]:
        """One request from its placement to its end; seconds until the answer, and of
        what is booked after it."""
        request = Request(name, prompt_keys, len(prompt_keys) // key_bytes * BLOCK + 1)
        began = time.perf_counter()
        placed = scheduler.place(request, at)
        answered = time.perf_counter()
        scheduler.settle()
        booked = time.perf_counter()
        scheduler.observe(placed.replica, [FirstToken(name, placed.cached_tokens)], at)
        scheduler.observe(placed.replica, [Finished(name, 1)], at)
        return answered - began, booked - answered

    for target in requests:
        while served < target:
            served += 1
            now += 0.01
            shared = choose.randrange(1, PREFIX_BLOCKS) * key_bytes
            serve(str(served), keys[:shared] + choose.randbytes(OWN_BLOCKS * key_bytes), now)
        # What was expected of them ends.
        now += 5.0
        scheduler.observe(0, [], now)
        placed, booked = zip(*(serve("probe", keys, now) for _ in range(PROBES)), strict=True)
        yield {
            "what": "history",
            "requests": target,
            **summary(placed),
            "booked_p50_us": summary(booked)["p50_us"],
            "tree_nodes": scheduler.status(now).tree_nodes,
        }
