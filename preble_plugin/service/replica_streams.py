"""The event streams of a scheduler's replicas, each refilled before it begins.

1. A replica of which residency was saved before a restart gets it back first, and
   its stream goes on from there; the stream itself decides whether that connects.
2. One replica is refilled at a time, the next after the loop's other work: it
   takes more than a second per million blocks, and placements go on meanwhile.
3. A replica whose event source cannot be used goes without, with an error logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from preble_plugin.core import ReplicaId
from preble_plugin.feed.actions import Position, StreamStatus
from preble_plugin.feed.endpoint import EndpointError
from preble_plugin.feed.subscriber import Sink, Subscriber
from preble_plugin.service.interface import ReplicaSpec
from preble_plugin.service.snapshots import SavedResidency

_log = logging.getLogger(__name__)
_BREATH_SECONDS: Final = 0.02
"""Between two replicas' refills, for placements."""


class ReplicaStreams:
    """Hands the events of the replicas followed to `sink`.

    `recall` gives what was saved of a replica, `restore` takes it into the
    scheduler and raises `ValueError` if it cannot.
    """

    def __init__(
        self,
        sink: Sink,
        recall: Callable[[ReplicaSpec], SavedResidency | None],
        restore: Callable[[ReplicaId, bytes], None],
    ) -> None:
        self._recall = recall
        self._restore = restore
        self._subscriber = Subscriber(sink)
        self._waiting: deque[tuple[ReplicaSpec, SavedResidency]] = deque()
        """Replicas to be refilled."""
        self._next: asyncio.TimerHandle | None = None

    @property
    def refilling(self) -> int:
        """How many replicas wait to be refilled."""
        return len(self._waiting)

    def follow(self, spec: ReplicaSpec) -> None:
        """Follow a replica that has an event source, and is not followed yet."""
        if (saved := self._recall(spec)) is None:
            self._subscribe(spec, None)
        else:
            self._waiting.append((spec, saved))
            self._refill_soon()

    def unfollow(self, replica: ReplicaId) -> None:
        """Leave a replica, if it is followed or waits to be."""
        self._waiting = deque(one for one in self._waiting if one[0].replica != replica)
        self._subscriber.unfollow(replica)

    def status(self, replica: ReplicaId) -> StreamStatus | None:
        """A replica's stream in numbers; None where it is not followed."""
        return self._subscriber.status(replica)

    def position(self, replica: ReplicaId) -> Position | None:
        """Where a replica's stream stands, if it can be resumed from there."""
        return self._subscriber.position(replica)

    async def start(self) -> None:
        """Begin to read; idempotent."""
        await self._subscriber.start()

    async def close(self) -> None:
        """Leave all replicas; idempotent."""
        if self._next is not None:
            self._next.cancel()
        self._next = None
        self._waiting.clear()
        await self._subscriber.close()

    def _refill_soon(self) -> None:
        if self._next is None and self._waiting:
            loop = asyncio.get_running_loop()
            self._next = loop.call_later(_BREATH_SECONDS, self._refill)

    def _refill(self) -> None:
        self._next = None
        if self._waiting:
            spec, saved = self._waiting.popleft()
            position: Position | None = saved.position
            try:
                self._restore(spec.replica, saved.residency)
            except ValueError as error:
                position = None
                _log.warning("the snapshot of replica %r is of no use: %s", spec.replica, error)
            self._subscribe(spec, position)
        self._refill_soon()

    def _subscribe(self, spec: ReplicaSpec, resume: Position | None) -> None:
        assert spec.events is not None
        try:
            self._subscriber.follow(
                spec.replica,
                spec.events.endpoint,
                spec.events.replay_endpoint,
                spec.events.topic,
                capacity_blocks=spec.capacity_blocks,
                resume=resume,
            )
        except EndpointError as error:
            _log.error("replica %r goes without its cache events: %s", spec.replica, error)
