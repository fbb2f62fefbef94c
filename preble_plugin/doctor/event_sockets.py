"""Whether the sockets at which replicas publish their events answer from here.

1. *Live*: a SUB socket connects; ZMQ's own monitor says when the handshake is done, which
   needs a ZMQ publisher there and not just an open port. Nothing is subscribed to.
2. *Replay*: a DEALER asks for batches from a number that never comes. A publisher then
   sends none, and the mark that ends a replay (frames: `feed/link`).

Both are tried at once for all sources, within one bound.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import zmq
from zmq.utils.monitor import parse_monitor_message

from preble_plugin.service.interface import EventSource

_NEVER: Final = (1 << 62).to_bytes(8, "big")
_END: Final = (-1).to_bytes(8, "big", signed=True)
_AT_ONCE: Final = 128
"""Sources tried at once: each takes three sockets."""


class Reached(msgspec.Struct, frozen=True):
    """What became of one source."""

    live: bool
    """A publisher shook hands."""
    replay: bool | None
    """A replay was answered; None where there is no replay endpoint."""


def reach(sources: Sequence[EventSource], seconds: float) -> list[Reached]:
    """Try each source for at most `seconds` (for each 128 of them); blocks until all have
    answered or the time is over. Raises `zmq.ZMQError` for an address that ZMQ refuses."""
    found: list[Reached] = []
    with zmq.Context() as context:
        for first in range(0, len(sources), _AT_ONCE):
            tries = [_Try(context, source) for source in sources[first : first + _AT_ONCE]]
            try:
                _wait(tries, time.monotonic() + seconds)
                found += [one.reached for one in tries]
            finally:
                for one in tries:
                    one.close()
    return found


class _Try:
    """The sockets for one source."""

    def __init__(self, context: zmq.Context[Any], source: EventSource) -> None:
        self._context = context
        self._sockets: list[zmq.Socket[bytes]] = []
        self.live = False
        self.replayed = False
        self.monitor: zmq.Socket[bytes] | None = None
        self.dealer: zmq.Socket[bytes] | None = None
        try:
            sub = self._socket(zmq.SUB, source.endpoint)
            self.monitor = sub.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
            self._sub = sub
            sub.connect(source.endpoint)
            if source.replay_endpoint is not None:
                self.dealer = self._socket(zmq.DEALER, source.replay_endpoint)
                self.dealer.connect(source.replay_endpoint)
                self.dealer.send_multipart([b"", _NEVER], zmq.NOBLOCK)
        except BaseException:
            self.close()
            raise

    @property
    def waiting(self) -> list[zmq.Socket[bytes]]:
        """The sockets of which nothing was heard yet."""
        live = [] if self.live or self.monitor is None else [self.monitor]
        return live if self.replayed or self.dealer is None else [*live, self.dealer]

    @property
    def reached(self) -> Reached:
        return Reached(self.live, None if self.dealer is None else self.replayed)

    def hear(self, socket: zmq.Socket[bytes]) -> None:
        """Read what one of `waiting` has."""
        frames = socket.recv_multipart(zmq.NOBLOCK)
        if socket is self.monitor:
            event = parse_monitor_message(frames)["event"]
            self.live = self.live or event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        else:
            self.replayed = self.replayed or _END in frames[1:]

    def close(self) -> None:
        """Close all of them."""
        if self.monitor is not None:
            self._sub.disable_monitor()
            self.monitor.close(linger=0)
        for socket in self._sockets:
            socket.close(linger=0)

    def _socket(self, kind: int, endpoint: str) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        self._sockets.append(socket)
        if endpoint.startswith("tcp://"):
            socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        return socket


def _wait(tries: Sequence[_Try], deadline: float) -> None:
    """Until all have answered, or the deadline."""
    while True:
        poller = zmq.Poller()
        owner = {socket: one for one in tries for socket in one.waiting}
        for socket in owner:
            poller.register(socket, zmq.POLLIN)
        left = deadline - time.monotonic()
        if not owner or left <= 0:
            return
        for socket, _ in poller.poll(max(1, int(1000 * left))):
            owner[socket].hear(socket)
