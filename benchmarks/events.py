"""Events: blocks a second from wire bytes to residency, applied alone, and by Dynamo.

Four streams, in the form and the batches that engines publish:

1. `mixed`: stores of 8 blocks, and single removals, last block first, once 4,096 are
   held (vLLM).
2. `roots`: stores of one block each, all of them starts of prompts.
3. `decode`: 256 sequences that grow a block at a time, in turn.
4. `pages`: page size 1, stores of 512 tokens and removals of as many (SGLang).
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from typing import Any, Final

import msgspec
import numpy as np

from benchmarks.dynamo import DynamoTree, available
from benchmarks.measure import SEED, VOCABULARY
from preble_plugin.core import Remove, Scheduler, Store
from preble_plugin.feed.wire import Batch, decode

STREAMS: Final = ("mixed", "roots", "decode", "pages")
BATCH: Final = 16


class _Wire:
    """Events of one publisher in wire form."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.random = np.random.default_rng(2)
        self.payloads: list[bytes] = []
        self.blocks = 0
        self._batch: list[dict[str, Any]] = []

    def store(self, count: int, parent: int | None = None) -> list[int]:
        names: list[int] = self.random.integers(1, 1 << 63, count).tolist()
        self._add(
            {
                "type": "BlockStored",
                "block_hashes": names,
                "parent_block_hash": parent,
                "token_ids": self.random.integers(0, VOCABULARY, count * self.block).tolist(),
                "block_size": self.block,
                "lora_id": None,
                "medium": "GPU",
                "lora_name": None,
                "group_idx": 0,
            }
        )
        self.blocks += count
        return names

    def remove(self, names: list[int]) -> None:
        self._add({"type": "BlockRemoved", "block_hashes": names, "medium": "GPU", "group_idx": 0})
        self.blocks += len(names)

    def _add(self, event: dict[str, Any]) -> None:
        self._batch.append(event)
        if len(self._batch) == BATCH:
            self.payloads.append(msgspec.msgpack.encode([0.0, self._batch, 0]))
            self._batch = []


def _publish(stream: str, blocks: int) -> _Wire:
    wire = _Wire(1 if stream == "pages" else 16)
    runs: deque[list[int]] = deque()
    tails: list[int | None] = [None] * 256
    turn = 0
    while wire.blocks < blocks:
        turn += 1
        if stream == "mixed":
            runs.append(wire.store(8))
            if len(runs) > 512:
                for name in reversed(runs.popleft()):
                    wire.remove([name])
        elif stream == "roots":
            wire.store(1)
        elif stream == "decode":
            tails[turn % 256] = wire.store(1, tails[turn % 256])[0]
        else:
            runs.append(wire.store(512))
            if len(runs) > 64:
                wire.remove(runs.popleft())
    return wire


def rates(stream: str, blocks: int, repeat: int = 3) -> dict[str, Any]:
    """Medians of `repeat` passes over the same stream, each on an empty scheduler."""
    wire = _publish(stream, blocks)
    per_second: dict[str, list[float]] = {"wire": [], "applied": [], "dynamo": []}

    def fresh() -> Scheduler:
        scheduler = Scheduler(wire.block, seed=SEED)
        scheduler.add_replica(0)
        return scheduler

    decoded: list[Batch] = []
    for _ in range(repeat):
        scheduler = fresh()
        began = time.perf_counter()
        for payload in wire.payloads:
            batch = decode(payload)
            assert isinstance(batch, Batch)
            scheduler.apply(0, batch.events, 0.0)
        per_second["wire"].append(wire.blocks / (time.perf_counter() - began))
        decoded = []
        for payload in wire.payloads:
            batch = decode(payload)
            assert isinstance(batch, Batch)
            decoded.append(batch)
        scheduler = fresh()
        began = time.perf_counter()
        for batch in decoded:
            scheduler.apply(0, batch.events, 0.0)
        per_second["applied"].append(wire.blocks / (time.perf_counter() - began))
        if available:
            tree, events = DynamoTree(wire.block), []
            for batch in decoded:
                for event in batch.events:
                    if isinstance(event, Store):
                        made = tree.event(
                            list(event.hashes),
                            event.parent,
                            event.tokens,  # type: ignore[arg-type]
                        )
                        events.append(made)
                    elif isinstance(event, Remove):
                        events.append(tree.removal(list(event.hashes)))  # type: ignore[arg-type]
            began = time.perf_counter()
            for made in events:
                tree.apply(0, made)
            tree.find([1] * wire.block)  # behind all that is queued
            per_second["dynamo"].append(wire.blocks / (time.perf_counter() - began))
    return {
        "what": "events",
        "stream": stream,
        "wire_blocks_per_s": round(statistics.median(per_second["wire"])),
        "applied_blocks_per_s": round(statistics.median(per_second["applied"])),
        "dynamo_blocks_per_s": round(statistics.median(per_second["dynamo"]))
        if available
        else None,
    }
