"""A ZMQ socket in an asyncio event loop, without a future per message.

1. ZMQ's descriptor is edge-triggered: it says once that something happened, and
   sending may swallow that. So everything is read whenever it fires, and looked
   for again after each send.
2. At most `_BATCH` messages are taken at a time; then the loop's other work has
   its turn.
3. Sending never waits: a full queue is an answer.

`zmq.asyncio` makes two futures and a task switch of each message, which is most
of a placement's round trip.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import zmq

_BATCH: Final = 64


class LoopSocket:
    """Reads a socket in the running loop and hands each message to `hear`.

    A message is a list of frames. `hear` must not raise.
    """

    def __init__(self, socket: zmq.Socket[bytes], hear: Callable[[list[bytes]], None]) -> None:
        self._socket = socket
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._descriptor = int(socket.getsockopt(zmq.FD))
        self._again: asyncio.Handle | None = None
        self._closed = False
        self._loop.add_reader(self._descriptor, self.read)
        self._read_soon()

    def read(self) -> None:
        """Take what is there, up to a batch."""
        for _ in range(_BATCH):
            if self._closed:
                return
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            except zmq.ZMQError:
                self.close()
                return
            self._hear(frames)
        self._read_soon()

    def send(self, *frames: bytes) -> bool:
        """Send a message; False where its queue is full or its peer is gone."""
        try:
            for frame in frames[:-1]:
                self._socket.send(frame, zmq.NOBLOCK | zmq.SNDMORE)
            self._socket.send(frames[-1], zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        if self._again is None and int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._read_soon()
        return True

    def close(self, linger_ms: int = 0) -> None:
        """Stop and close the socket; what is queued may still leave within
        `linger_ms`. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._descriptor)
        self._socket.close(linger=linger_ms)

    def _read_soon(self) -> None:
        if self._again is None and not self._closed:
            self._again = self._loop.call_soon(self._read_again)

    def _read_again(self) -> None:
        self._again = None
        self.read()
