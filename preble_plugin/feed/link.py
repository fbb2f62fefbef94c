"""One replica's sockets: a SUB for what is live, a DEALER for each replay.

Nothing here waits: both are read without blocking, one message at a time. Each
replay has a connection of its own, so that answers to an earlier request cannot
be taken for its own, and its queue at the publisher starts empty.

Frames (vLLM 0.31 to 0.33, distributed/kv_events.py): live `[topic, seq, payload]`;
replayed to a DEALER `["", topic, seq, payload]`; `seq` is 8 bytes, big-endian; -1 ends a
replay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import zmq

from preble_plugin.core.request import ReplicaId
from preble_plugin.feed.stream import Stream

RECEIVE_HIGH_WATER: Final = 4096
"""Messages that wait in each socket; more are dropped there and replayed later."""

_HEARTBEAT_MS: Final = 5_000
_DEAD_AFTER_MS: Final = 15_000
_LONGEST_RECONNECT_MS: Final = 2_000

Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"
Message: TypeAlias = tuple[int, bytes]


class Link:
    """Sockets and stream of one replica. `heard` is called when one of the sockets
    may have something to read; `watch` and `unwatch` are the event loop's
    `add_reader` and `remove_reader`."""

    def __init__(
        self,
        replica: ReplicaId,
        stream: Stream,
        endpoint: str,
        replay_endpoint: str | None,
        topic: str,
    ) -> None:
        self.replica = replica
        self.stream = stream
        self._endpoint = endpoint
        self._replay_endpoint = replay_endpoint
        self._topic = topic
        self._live: zmq.Socket[bytes] | None = None
        self._replay: zmq.Socket[bytes] | None = None

    def open(
        self,
        context: Context,
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], object],
        heard: Callable[[], None],
    ) -> None:
        """Connect the live socket. Raises `zmq.ZMQError`."""
        self._context, self._watch, self._unwatch, self._heard = context, watch, unwatch, heard
        self._live = self._connect(zmq.SUB, self._endpoint)
        self._live.setsockopt(zmq.SUBSCRIBE, self._topic.encode())
        heard()

    def ask(self, from_seq: int) -> None:
        """Ask for a replay, giving up an earlier one. Raises `zmq.ZMQError`."""
        self.end_replay()
        if self._replay_endpoint is not None and self._live is not None:
            self._replay = self._connect(zmq.DEALER, self._replay_endpoint)
            self._replay.send_multipart([b"", from_seq.to_bytes(8, "big")], zmq.NOBLOCK)
            self._heard()

    def end_replay(self) -> None:
        """Hang up on the replay, if there is one."""
        if self._replay is not None:
            self._close(self._replay)
            self._replay = None

    def close(self) -> None:
        """Close both sockets. Idempotent."""
        self.end_replay()
        if self._live is not None:
            self._close(self._live)
            self._live = None

    def live(self) -> Message | Literal["bad"] | None:
        """The next live batch; None if there is none yet."""
        frames = self._receive(self._live)
        if frames is None:
            return None
        if len(frames) != 3 or len(frames[1]) != 8 or frames[1][0] >= 0x80:
            return "bad"
        return int.from_bytes(frames[1], "big"), frames[2]

    def replayed(self) -> Message | Literal["bad", "end"] | None:
        """The next replayed batch, or the replay's end; None if there is none yet."""
        frames = self._receive(self._replay)
        if frames is None:
            return None
        if len(frames) != 4 or frames[0] or len(frames[2]) != 8:
            return "bad"
        seq = int.from_bytes(frames[2], "big", signed=True)
        if seq < 0:
            return "end" if seq == -1 else "bad"
        return seq, frames[3]

    def _connect(self, kind: int, endpoint: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        try:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, RECEIVE_HIGH_WATER)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, _LONGEST_RECONNECT_MS)
            if endpoint.startswith("tcp://"):
                socket.setsockopt(zmq.IPV6, int("[" in endpoint))
                socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
                socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _DEAD_AFTER_MS)
            socket.connect(endpoint)
            self._watch(int(socket.getsockopt(zmq.FD)), self._heard)
        except BaseException:
            socket.close()
            raise
        return socket

    def _close(self, socket: zmq.Socket[bytes]) -> None:
        self._unwatch(int(socket.getsockopt(zmq.FD)))
        socket.close()

    @staticmethod
    def _receive(socket: zmq.Socket[bytes] | None) -> list[bytes] | None:
        try:
            return None if socket is None else socket.recv_multipart(zmq.NOBLOCK)
        except zmq.ZMQError:
            # Nothing there (`Again`), or the process is ending and its context with it.
            return None
