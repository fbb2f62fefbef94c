"""Follows the event streams of many replicas, in one event loop.

1. Each replica has a `Link` (its sockets) and a `Stream` (what is to be done).
2. A socket that may have something wakes the reader. It takes one message of
   each replica in turn, and hands what follows to the sink, until all is read
   or its turn is over; then the loop's other work goes first.
3. A tick tells each stream that time went by, for deadlines and probes.

It lives in the loop of a server with other work to do: a turn ends after
`turn_seconds`, or with the one batch that exceeds it. ZMQ's descriptors are
edge-triggered, so a replica is left only when its sockets have nothing more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

import zmq

from preble_plugin.core.events import CacheEvent
from preble_plugin.core.request import ReplicaId
from preble_plugin.core.status import Trust
from preble_plugin.feed.actions import (
    Action,
    Apply,
    AskReplay,
    Patience,
    Position,
    Reset,
    StreamStatus,
    TrustChanged,
)
from preble_plugin.feed.endpoint import connectable
from preble_plugin.feed.link import Context, Link
from preble_plugin.feed.stream import Stream

_log = logging.getLogger(__name__)

TICK_SECONDS: Final = 0.1


class Sink(Protocol):
    """Where the events go. Called in the event loop, and not expected to raise: a
    batch whose `apply` raises counts as lost."""

    def apply(self, replica: ReplicaId, events: Sequence[CacheEvent], now: float) -> object:
        """These events of a replica follow all before; `now` in seconds, monotonic."""

    def reset(self, replica: ReplicaId) -> None:
        """Nothing is known any more of a replica's cache."""

    def trust(self, replica: ReplicaId, trust: Trust) -> None:
        """How far to believe a replica's residency from here on; at first `SILENT`."""


class Subscriber:
    """Hands the events of each replica followed to `sink`.

    `clock` is monotonic, `wall` since the epoch, both in seconds.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        patience: Patience | None = None,
        turn_seconds: float = 0.001,
        context: Context | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._sink = sink
        self._patience = patience
        self._turn_seconds = turn_seconds
        self._context = context
        self._clock = clock
        self._wall = wall
        self._links: dict[ReplicaId, Link] = {}
        self._resumes: dict[ReplicaId, Position] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[Link] = deque()
        """Links that may have something to read, each once, in turn."""
        self._turn: asyncio.Handle | None = None
        self._next_tick: asyncio.TimerHandle | None = None
        self._told: set[str] = set()

    # -- replicas ------------------------------------------------------------------

    def follow(
        self,
        replica: ReplicaId,
        endpoint: str,
        replay_endpoint: str | None = None,
        topic: str = "",
        *,
        capacity_blocks: int | None = None,
        resume: Position | None = None,
    ) -> None:
        """Follow a replica, from `start` on or at once; what was followed under this
        name before is left. With `resume`, its residency is that of a snapshot
        taken there.

        Raises `EndpointError`, and then nothing is changed.
        """
        link = Link(
            replica,
            Stream(
                replayable=replay_endpoint is not None,
                capacity_blocks=capacity_blocks,
                patience=self._patience,
            ),
            connectable(endpoint),
            None if replay_endpoint is None else connectable(replay_endpoint),
            topic,
        )
        if replica in self._links:
            self.unfollow(replica)
            self._sink.trust(replica, Trust.SILENT)
            if resume is None:
                self._sink.reset(replica)
        self._links[replica] = link
        if resume is not None:
            self._resumes[replica] = resume
        if self._loop is not None:
            self._open(self._loop, link)

    def unfollow(self, replica: ReplicaId) -> None:
        """Leave a replica, if it is followed."""
        link = self._links.pop(replica, None)
        self._resumes.pop(replica, None)
        if link is not None:
            link.close()
            if link in self._waiting:
                self._waiting.remove(link)

    def position(self, replica: ReplicaId) -> Position | None:
        """Where a replica's stream stands, to be kept with a snapshot taken now."""
        link = self._links.get(replica)
        return None if link is None else link.stream.position()

    def status(self, replica: ReplicaId) -> StreamStatus | None:
        """A replica's stream in numbers; None where it is not followed."""
        link = self._links.get(replica)
        return None if link is None else link.stream.status()

    # -- life ------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect and begin to read in the running loop. Idempotent."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            for link in list(self._links.values()):
                self._open(self._loop, link)
            self._next_tick = self._loop.call_later(TICK_SECONDS, self._tick)

    async def close(self) -> None:
        """Leave all replicas and stop. Idempotent."""
        for replica in list(self._links):
            self.unfollow(replica)
        for handle in (self._turn, self._next_tick):
            if handle is not None:
                handle.cancel()
        self._turn = self._next_tick = self._loop = None

    # -- work ------------------------------------------------------------------------

    def _open(self, loop: asyncio.AbstractEventLoop, link: Link) -> None:
        context = self._context or zmq.Context.instance()
        try:
            link.open(context, loop.add_reader, loop.remove_reader, partial(self._wake, link))
        except zmq.ZMQError as error:
            self._tell(link, "socket", error)
        resume, now = self._resumes.pop(link.replica, None), self._clock()
        stream = link.stream
        self._do(link, stream.start(now) if resume is None else stream.resume(resume, now), now)

    def _wake(self, link: Link) -> None:
        if link not in self._waiting:
            self._waiting.append(link)
        if self._turn is None and self._loop is not None:
            self._turn = self._loop.call_soon(self._read)

    def _read(self) -> None:
        """One turn."""
        self._turn = None
        began = now = self._clock()
        while self._waiting:
            link = self._waiting.popleft()
            if self._read_one(link, now) and self._links.get(link.replica) is link:
                self._waiting.append(link)
            now = self._clock()
            if now - began >= self._turn_seconds:
                break
        if self._waiting and self._turn is None and self._loop is not None:
            self._turn = self._loop.call_soon(self._read)

    def _read_one(self, link: Link, now: float) -> bool:
        """One held batch, or a replayed and a live one; False if there was nothing."""
        stream = link.stream
        if stream.ready:
            self._do(link, stream.drain(now), now)
            return True
        match replayed := link.replayed():
            case (seq, payload):
                self._do(link, stream.replayed(seq, payload, now), now)
            case "end":
                self._do(link, stream.replay_end(now), now)
            case "bad":
                stream.note_error("replay_frames")
        if stream.ready:
            return True
        match live := link.live():
            case (seq, payload):
                self._do(link, stream.live(seq, payload, now, self._wall()), now)
            case "bad":
                stream.note_error("live_frames")
        return replayed is not None or live is not None or stream.ready

    def _tick(self) -> None:
        if self._loop is None:
            return
        self._next_tick = self._loop.call_later(TICK_SECONDS, self._tick)
        now = self._clock()
        for link in list(self._links.values()):
            self._do(link, link.stream.tick(now), now)
            self._wake(link)

    def _do(self, link: Link, actions: Sequence[Action], now: float) -> None:
        applied = True
        for action in actions:
            try:
                match action:
                    case Apply(events=events):
                        self._sink.apply(link.replica, events, now)
                    case Reset():
                        self._sink.reset(link.replica)
                    case TrustChanged(trust=trust):
                        self._sink.trust(link.replica, trust)
                    case AskReplay(from_seq=from_seq):
                        link.ask(from_seq)
            except Exception as error:
                self._tell(link, "socket" if isinstance(action, AskReplay) else "sink", error)
                applied = applied and not isinstance(action, Apply)
        if not applied:
            self._do(link, link.stream.forget(now), now)
        if not link.stream.asking:
            link.end_replay()

    def _tell(self, link: Link, cause: str, error: Exception) -> None:
        link.stream.note_error(cause)
        if cause not in self._told:
            self._told.add(cause)
            _log.error("events of replica %r, %s: %s", link.replica, cause, error, exc_info=error)
