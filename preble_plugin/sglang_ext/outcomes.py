"""What became of requests: from the scheduler processes to the controller.

1. SGLang's results go from a scheduler to the detokenizer and never pass the
   controller. So each scheduler process tells it, over a local socket of ours,
   of first tokens and of ends.
2. A message carries the time at which it was made, on the clock that all
   processes of a machine share.
3. Telling never waits and never raises: what does not fit the queue is dropped
   and counted. The load of a request whose end was lost is released when its
   rank says that it is idle (`core/report`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import zmq

from preble_plugin.service.loop_socket import LoopSocket
from preble_plugin.sglang_ext.facts import End

_SOCKET: Final = "outcomes"
_QUEUE: Final = 65_536
"""Messages that wait for a controller that is busy."""
_log = logging.getLogger("sglang.preble")


class Outcomes(msgspec.Struct, frozen=True, array_like=True):
    """What one step of a scheduler did to its requests."""

    at: float
    """Seconds, monotonic."""
    started: list[tuple[str, int]] = []
    """Requests that had their first output, and the tokens found cached."""
    ended: list[End] = []


def outcomes_address(directory: Path) -> str:
    """Where the outcomes of a server with this directory are told."""
    return f"ipc://{directory}/{_SOCKET}"


class OutcomeTeller:
    """A scheduler process's side. Connects at the first message."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._socket: zmq.Socket[bytes] | None = None
        self._encoder = msgspec.msgpack.Encoder()
        self.dropped = 0
        """Messages that could not be sent."""

    def started(self, requests: Sequence[tuple[str, int]]) -> None:
        """These had their first output."""
        self._tell(Outcomes(time.monotonic(), started=list(requests)))

    def ended(self, requests: Sequence[End]) -> None:
        """These have left."""
        self._tell(Outcomes(time.monotonic(), ended=list(requests)))

    def _tell(self, outcomes: Outcomes) -> None:
        try:
            if self._socket is None:
                self._socket = zmq.Context.instance().socket(zmq.PUSH)
                self._socket.setsockopt(zmq.SNDHWM, _QUEUE)
                self._socket.setsockopt(zmq.LINGER, 0)
                self._socket.connect(self._address)
            self._socket.send(self._encoder.encode(outcomes), zmq.NOBLOCK)
        except Exception:
            self.dropped += 1
            if self.dropped == 1:
                _log.exception("preble could not tell the controller of an outcome; counted")


class OutcomeListener:
    """The controller's side: hands each message to `hear` in the running loop.

    Raises `zmq.ZMQError` where the address cannot be bound. `hear` must not raise.
    """

    def __init__(self, address: str, hear: Callable[[Outcomes], None]) -> None:
        self.unreadable = 0
        """Messages that were none of ours."""
        self._hear = hear
        self._decoder = msgspec.msgpack.Decoder(Outcomes)
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        try:
            socket.setsockopt(zmq.RCVHWM, _QUEUE)
            socket.bind(address)
            self._socket = LoopSocket(socket, self._decode)
        except BaseException:
            socket.close(linger=0)
            raise

    def close(self) -> None:
        """Hear no more; idempotent."""
        self._socket.close()

    def _decode(self, frames: list[bytes]) -> None:
        try:
            outcomes = self._decoder.decode(frames[-1])
        except msgspec.MsgspecError:
            self.unreadable += 1
            return
        self._hear(outcomes)
