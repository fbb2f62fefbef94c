"""A replica's event publisher on plain ZMQ sockets, with an empty topic."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import msgspec
import zmq

from preble_plugin.service.interface import EventSource


class KvPublisher:
    """PUB and replay ROUTER on loopback ports of the system's choosing."""

    def __init__(self, buffer_batches: int = 10_000) -> None:
        self._context = zmq.Context()
        self._pub = self._context.socket(zmq.PUB)
        self._pub.set_hwm(100_000)
        self._replay = self._context.socket(zmq.ROUTER)
        self._replay.set_hwm(100_000)
        pub_port = self._pub.bind_to_random_port("tcp://127.0.0.1")
        replay_port = self._replay.bind_to_random_port("tcp://127.0.0.1")
        self.source = EventSource(f"tcp://127.0.0.1:{pub_port}", f"tcp://127.0.0.1:{replay_port}")
        self._buffer_batches = buffer_batches
        self._buffer: list[tuple[int, bytes]] = []
        self._lock = threading.Lock()
        self._next = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._answer_replays, daemon=True)
        self._thread.start()

    def store(self, tokens: Sequence[int], block_size: int, parent: int | None = None) -> list[int]:
        """Publish a store of these tokens' full blocks; their hashes."""
        blocks = len(tokens) // block_size
        hashes = []
        above = parent
        for block in range(blocks):
            own = tuple(tokens[block * block_size : (block + 1) * block_size])
            above = hash((above, own)) & ((1 << 63) - 1)
            hashes.append(above)
        self.publish(
            [
                {
                    "type": "BlockStored",
                    "block_hashes": hashes,
                    "parent_block_hash": parent,
                    "token_ids": list(tokens[: blocks * block_size]),
                    "block_size": block_size,
                    "lora_id": None,
                    "medium": "GPU",
                }
            ]
        )
        return hashes

    def remove(self, hashes: Sequence[int]) -> None:
        self.publish(
            [{"type": "BlockRemoved", "block_hashes": [one], "medium": "GPU"} for one in hashes]
        )

    def publish(self, events: list[object]) -> None:
        payload = msgspec.msgpack.encode([time.time(), events, 0])
        with self._lock:
            sequence, self._next = self._next, self._next + 1
            self._buffer.append((sequence, payload))
            del self._buffer[: -self._buffer_batches]
        self._pub.send_multipart([b"", sequence.to_bytes(8, "big"), payload])

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._pub.close(linger=0)
        self._replay.close(linger=0)
        self._context.term()

    def _answer_replays(self) -> None:
        while not self._ended.is_set():
            if not self._replay.poll(20):
                continue
            client, _, start = self._replay.recv_multipart()
            first = int.from_bytes(start, "big")
            with self._lock:
                batches = [batch for batch in self._buffer if batch[0] >= first]
            for sequence, payload in batches:
                self._replay.send_multipart(
                    [client, b"", b"", sequence.to_bytes(8, "big"), payload]
                )
            end = (-1).to_bytes(8, "big", signed=True)
            self._replay.send_multipart([client, b"", b"", end, b""])
