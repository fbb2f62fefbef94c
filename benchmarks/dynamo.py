"""The same work by NVIDIA Dynamo's router, as its Python package offers it.

`ai-dynamo-runtime` 1.6: `compute_block_hash_for_seq` and `RadixTree.find_matches` say
which worker holds how much of a prompt; `RadixTree.apply_event` takes one event in JSON;
`SelectionService.select` chooses a worker, with residency from the workers' ZMQ events.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq

os.environ.setdefault("DYN_LOG", "error")  # before the import: it logs each selection

try:
    from dynamo._core import RadixTree, SelectionService, compute_block_hash_for_seq
except ImportError:
    RadixTree = SelectionService = compute_block_hash_for_seq = None

from benchmarks.measure import summary
from benchmarks.trees import Tree

available = RadixTree is not None


class DynamoTree:
    """A `RadixTree` fed with the events that our scheduler is fed with."""

    def __init__(self, block: int) -> None:
        self._block = block
        self._tree = RadixTree()
        self._events = 0

    def event(self, names: Sequence[int], parent: int | None, tokens: Sequence[int]) -> bytes:
        """The JSON of a store."""
        hashes = compute_block_hash_for_seq(list(tokens), self._block)
        blocks = [
            {"block_hash": name, "tokens_hash": one}
            for name, one in zip(names, hashes, strict=True)
        ]
        return self._json({"stored": {"parent_hash": parent, "blocks": blocks}})

    def removal(self, names: Sequence[int]) -> bytes:
        """The JSON of a removal."""
        return self._json({"removed": {"block_hashes": list(names)}})

    def apply(self, replica: int, event: bytes) -> None:
        """Apply one event."""
        self._tree.apply_event(replica, event)

    def find(self, tokens: list[int]) -> dict[Any, int]:
        """Blocks of the prompt by worker: what a router then has to price."""
        scores: dict[Any, int] = self._tree.find_matches(
            compute_block_hash_for_seq(tokens, self._block)
        ).scores
        return scores

    def _json(self, data: dict[str, Any]) -> bytes:
        self._events += 1
        return json.dumps({"event_id": self._events, "data": data, "dp_rank": 0}).encode()


def selections(tree: Tree, runs: int) -> dict[str, Any]:
    """`SelectionService.select` on a tree that its workers published."""
    return asyncio.run(_selections(tree, runs))


async def _selections(tree: Tree, runs: int) -> dict[str, Any]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sockets = [context.socket(zmq.PUB) for _ in range(tree.replicas)]
    service = SelectionService(indexer_threads=1)
    try:
        for worker, socket in enumerate(sockets):
            socket.set_hwm(0)
            port = socket.bind_to_random_port("tcp://127.0.0.1")
            await service.upsert_worker(
                {
                    "worker_id": worker,
                    "model_name": "model",
                    "endpoint": f"http://127.0.0.1:{port}",
                    "block_size": tree.block,
                    "data_parallel_start_rank": 0,
                    "data_parallel_size": 1,
                    "kv_events_endpoints": {0: f"tcp://127.0.0.1:{port}"},
                }
            )
        await asyncio.sleep(1.0)  # subscriptions have no acknowledgement
        numbers = [0] * tree.replicas
        for run in tree.runs():
            stored = {
                "type": "BlockStored",
                "block_hashes": run.names,
                "parent_block_hash": run.parent,
                "token_ids": run.tokens.tolist(),
                "block_size": tree.block,
                "lora_id": None,
                "medium": "GPU",
                "lora_name": None,
            }
            payload = msgspec.msgpack.encode([time.time(), [stored], 0])
            number = numbers[run.replica].to_bytes(8, "big")
            sockets[run.replica].send_multipart([b"", number, payload])
            numbers[run.replica] += 1
        await _settled(service, tree)
        seconds: list[float] = []
        for turn in range(runs + runs // 5):
            request = {"model_name": "model", "token_ids": tree.prompt().tokens}
            began = time.perf_counter()
            await service.select(request)
            if turn >= runs // 5:
                seconds.append(time.perf_counter() - began)
        return summary(seconds)
    finally:
        service.shutdown()
        context.destroy(linger=0)


async def _settled(service: Any, tree: Tree) -> None:
    """Wait until the last document is known."""
    last = tree.documents[-1]
    request = {"model_name": "model", "token_ids": [*last.tokens, 1]}
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        chosen = await service.select(request)
        if chosen["overlap"]["longest_matched"] >= len(last.names) - 1:
            return
        await asyncio.sleep(0.05)
    raise RuntimeError("SelectionService did not learn the tree from its events in a minute")
