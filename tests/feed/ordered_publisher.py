"""A publisher that is driven by the test, with faults to order."""

from __future__ import annotations

import asyncio
from collections.abc import Container
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from tests.feed.feed_builders import mark, payload, stored_map

END = (-1).to_bytes(8, "big", signed=True)


class OrderedPublisher:
    """Publishes a store per batch under `directory`; each has the life and the
    number for its hash. `holes` are dropped once from the next replay."""

    def __init__(self, directory: Path, life: int = 1, *, buffer_steps: int = 10_000) -> None:
        context = zmq.asyncio.Context.instance()
        self.endpoint = f"ipc://{directory}/live"
        self.replay_endpoint = f"ipc://{directory}/replay"
        self._life = life
        self._buffer_steps = buffer_steps
        self._buffer: list[tuple[int, bytes]] = []
        self._next = 0
        self.replays: list[int] = []
        self.holes: Container[int] = ()
        self.subscribed = asyncio.Event()
        self._live = context.socket(zmq.XPUB)
        self._live.bind(self.endpoint)
        self._router = context.socket(zmq.ROUTER)
        self._router.sndhwm = 0
        self._router.bind(self.replay_endpoint)
        self._tasks = [
            asyncio.create_task(self._serve()),
            asyncio.create_task(self._watch_subscriptions()),
        ]

    async def publish(self, count: int = 1, *, sent: bool = True) -> None:
        """Publish batches; with `sent` false they only go to the buffer."""
        for _ in range(count):
            seq, self._next = self._next, self._next + 1
            event = stored_map([mark(self._life, seq)])
            await self.send(seq, payload(event, timestamp=1000.0 * self._life + seq), sent=sent)

    async def send(self, seq: int, payload: bytes, *, sent: bool = True) -> None:
        self._buffer = [*self._buffer, (seq, payload)][-self._buffer_steps :]
        if sent:
            await self.send_frames(b"", seq.to_bytes(8, "big"), payload)

    async def send_frames(self, *frames: Any) -> None:
        await self._live.send_multipart(frames)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._live.close(linger=0)
        self._router.close(linger=0)

    async def _watch_subscriptions(self) -> None:
        while True:
            if (await self._live.recv())[:1] == b"\x01":
                self.subscribed.set()

    async def _serve(self) -> None:
        while True:
            client, empty, start = await self._router.recv_multipart()
            assert empty == b""
            from_seq = int.from_bytes(start, "big")
            self.replays.append(from_seq)
            holes, self.holes = self.holes, ()
            for seq, sent in self._buffer:
                if seq >= from_seq and seq not in holes:
                    await self._router.send_multipart(
                        [client, b"", b"", seq.to_bytes(8, "big"), sent]
                    )
            await self._router.send_multipart([client, b"", b"", END, b""])
