"""What a placement costs, and an event, and a block of memory.

    python benchmarks/placement.py [--json] [--quick]

Counts the hash of the prompt into each placement, as a front end pays for it.
Each figure comes from many placements after a warm-up; a placement is followed
by what follows it in life (stores, evictions, first token, finish), untimed.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import time
import tracemalloc
from array import array
from collections import deque
from typing import Any

import front_ends
import msgspec

from preble_plugin.core import Finished, FirstToken, Remove, Request, Scheduler, Store, Trust

BLOCK = 16
VOCABULARY = 128_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="fewer placements and sizes")
    options = parser.parse_args()
    runs = 400 if options.quick else 3000
    rows: list[dict[str, Any]] = []

    def say(row: dict[str, Any]) -> None:
        rows.append(row)
        if not options.json:
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)

    say(reference(tokens=2048, runs=runs))
    sizes = [100_000] if options.quick else [10_000, 100_000, 1_000_000]
    for blocks in sizes:
        say(placing(tokens=2048, replicas=8, blocks=blocks, runs=runs))
    if not options.quick:
        say(placing(tokens=2048, replicas=2, blocks=100_000, runs=runs))
        say(placing(tokens=2048, replicas=64, blocks=100_000, runs=runs))
        say(placing(tokens=128, replicas=8, blocks=100_000, runs=runs))
        say(placing(tokens=8192, replicas=8, blocks=100_000, runs=runs // 2))
        say(placing(tokens=32_768, replicas=8, blocks=100_000, runs=runs // 4))
    say(history(runs=runs))
    say(events(blocks=50_000 if options.quick else 400_000))
    for row in front_ends.measure(400 if options.quick else 3000):
        say(row)
    say(memory(blocks=50_000 if options.quick else 200_000))
    if options.json:
        machine = {
            "machine": platform.machine(),
            "processor": processor(),
            "python": platform.python_version(),
            "block_size": BLOCK,
        }
        json.dump({**machine, "results": rows}, sys.stdout, indent=2)
        print()


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


class Fleet:
    """A scheduler whose replicas hold `blocks` blocks between them, all of it
    documents of `document_blocks` blocks, each on one replica."""

    def __init__(self, replicas: int, blocks: int, document_blocks: int) -> None:
        self.choose = random.Random(1)
        self.scheduler = Scheduler(BLOCK, seed=b"benchmark seed..")
        per_replica = blocks // replicas
        for replica in range(replicas):
            self.scheduler.add_replica(replica, capacity_blocks=per_replica + document_blocks)
            self.scheduler.set_trust(replica, Trust.EXACT)
        self.now = 1.0
        self.placed = 0
        self.documents: list[list[int]] = []
        self.names: list[list[int]] = []
        self.evictable: list[deque[list[int]]] = [deque() for _ in range(replicas)]
        held = 0
        while held < blocks:
            tokens = self.tokens(document_blocks * BLOCK)
            replica = len(self.documents) % replicas
            names = self.hashes(document_blocks)
            self.scheduler.apply(replica, [Store(names, None, tokens, BLOCK)], 0)
            self.documents.append(tokens)
            self.names.append(names)
            held += document_blocks

    def tokens(self, count: int) -> list[int]:
        return self.choose.choices(range(VOCABULARY), k=count)

    def hashes(self, count: int) -> list[int]:
        return [self.choose.getrandbits(63) for _ in range(count)]

    def place(self, tokens: int) -> float:
        """One placement and what follows it; seconds of the placement. Nine prompts
        in ten are a document and something of their own, the rest are new."""
        which = self.choose.randrange(len(self.documents))
        new = self.choose.random() < 0.1
        shared = 0 if new else (tokens - own_tokens(tokens)) // BLOCK
        prompt = self.documents[which][: shared * BLOCK]
        prompt = prompt + self.tokens(tokens - len(prompt))
        self.placed += 1
        self.now += 0.01
        name = f"request {self.placed}"
        began = time.perf_counter()
        keys = self.scheduler.hasher.prompt_keys(prompt)
        placement = self.scheduler.place(Request(name, keys, len(prompt)), self.now)
        took = time.perf_counter() - began
        replica = int(placement.replica)
        stored_from = shared if placement.cached_tokens else 0
        if stored := self.hashes(len(prompt) // BLOCK - stored_from):
            parent = self.names[which][stored_from - 1] if stored_from else None
            piece = prompt[stored_from * BLOCK : len(prompt) // BLOCK * BLOCK]
            self.scheduler.apply(replica, [Store(stored, parent, piece, BLOCK)], self.now)
            self.evictable[replica].append(stored)
            if len(self.evictable[replica]) > 8:
                gone = self.evictable[replica].popleft()
                self.scheduler.apply(replica, [Remove(gone)], self.now)
        self.now += 0.1
        self.scheduler.observe(replica, [FirstToken(name, placement.cached_tokens)], self.now)
        self.scheduler.observe(replica, [Finished(name, 16)], self.now)
        return took


def own_tokens(tokens: int) -> int:
    """Of a prompt, what is not its document's."""
    return tokens // 8


def summary(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "p50_us": round(statistics.median(ordered) * 1e6, 1),
        "p99_us": round(ordered[int(len(ordered) * 0.99)] * 1e6, 1),
    }


def placing(tokens: int, replicas: int, blocks: int, runs: int) -> dict[str, Any]:
    fleet = Fleet(replicas, blocks, document_blocks=(tokens - own_tokens(tokens)) // BLOCK)
    for _ in range(runs // 5):
        fleet.place(tokens)
    seconds = [fleet.place(tokens) for _ in range(runs)]
    return {
        "what": "place",
        "tokens": tokens,
        "replicas": replicas,
        "resident_blocks": blocks,
        **summary(seconds),
    }


def reference(tokens: int, runs: int) -> dict[str, Any]:
    """The least that Python takes to read a list of token ids, and the block keys."""
    choose = random.Random(3)
    hasher = Scheduler(BLOCK, seed=b"benchmark seed..").hasher
    packing: list[float] = []
    hashing: list[float] = []
    for _ in range(runs):
        prompt = choose.choices(range(VOCABULARY), k=tokens)
        began = time.perf_counter()
        array("I", prompt)
        packed = time.perf_counter()
        hasher.prompt_keys(prompt)
        hashing.append(time.perf_counter() - packed)
        packing.append(packed - began)
    return {
        "what": "reference",
        "tokens": tokens,
        "array_p50_us": summary(packing)["p50_us"],
        "prompt_keys_p50_us": summary(hashing)["p50_us"],
    }


def history(runs: int) -> dict[str, Any]:
    """The cost of a placement after many others, over the cost after few: medians."""
    fleet = Fleet(8, 20_000, document_blocks=112)
    for _ in range(runs // 5):
        fleet.place(2048)
    early = statistics.median(fleet.place(2048) for _ in range(runs))
    for _ in range(10 * runs):
        fleet.place(2048)
    late = statistics.median(fleet.place(2048) for _ in range(runs))
    return {
        "what": "history",
        "placements_before": 11 * runs,
        "cost_ratio": round(late / early, 2),
    }


def events(blocks: int) -> dict[str, Any]:
    """Blocks per second from wire bytes to residency, and applied alone, in
    batches of 16 stores and 16 single removals, as vLLM publishes them."""
    from preble_plugin.feed.wire import decode

    choose = random.Random(2)
    payloads: list[bytes] = []
    stored: deque[int] = deque()
    made = 0
    while made < blocks:
        batch: list[dict[str, Any]] = []
        for _ in range(16):
            names = [choose.getrandbits(63) for _ in range(8)]
            tokens = choose.choices(range(VOCABULARY), k=8 * BLOCK)
            batch.append(
                {
                    "type": "BlockStored",
                    "block_hashes": names,
                    "parent_block_hash": None,
                    "token_ids": tokens,
                    "block_size": BLOCK,
                    "lora_id": None,
                    "medium": "GPU",
                    "lora_name": None,
                    "group_idx": 0,
                }
            )
            stored.extend(names)
            made += 8
        while len(stored) > 4096:
            batch.append(
                {
                    "type": "BlockRemoved",
                    "block_hashes": [stored.popleft()],
                    "medium": "GPU",
                    "group_idx": 0,
                }
            )
            made += 1
        payloads.append(msgspec.msgpack.encode([0.0, batch, 0]))

    def fresh() -> Scheduler:
        scheduler = Scheduler(BLOCK, seed=b"benchmark seed..")
        scheduler.add_replica(0)
        return scheduler

    rates: dict[str, list[float]] = {"wire": [], "applied": []}
    for _ in range(3):
        scheduler = fresh()
        began = time.perf_counter()
        for payload in payloads:
            scheduler.apply(0, decode(payload).events, 0.0)
        rates["wire"].append(made / (time.perf_counter() - began))
        decoded = [decode(payload).events for payload in payloads]
        scheduler = fresh()
        began = time.perf_counter()
        for batch_events in decoded:
            scheduler.apply(0, batch_events, 0.0)
        rates["applied"].append(made / (time.perf_counter() - began))
    return {
        "what": "events",
        "wire_to_residency_blocks_per_s": round(statistics.median(rates["wire"])),
        "applied_alone_blocks_per_s": round(statistics.median(rates["applied"])),
    }


def memory(blocks: int) -> dict[str, Any]:
    """Bytes a resident block costs, engine hashes as 64-bit integers included."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    fleet = Fleet(1, blocks, document_blocks=128)
    fleet.documents.clear()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"what": "memory", "bytes_per_resident_block": round((after - before) / blocks, 1)}


if __name__ == "__main__":
    main()
