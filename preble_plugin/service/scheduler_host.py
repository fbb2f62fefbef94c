"""A scheduler and the event streams of its replicas, in one event loop.

1. The scheduler is built when the first replicas are stated: their block size
   is the engine's, and it stays.
2. Each replica with an event source gets a stream; its events, its trust and
   its restarts go straight into the scheduler, in this loop, without a lock.
3. The streams' own numbers are merged into the status.
4. Where the settings ask for it, all that is asked is recorded, whoever decided.

`LocalFrontend` and the scheduler process both stand on this, so that what front
ends see is the same whichever is used. Time is `time.monotonic()`, which all
processes of a machine share.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from preble_plugin.core import (
    BlockHasher,
    CacheEvent,
    Finished,
    LoadReport,
    NoReplicaError,
    Outcome,
    Placement,
    Receipt,
    ReplicaId,
    ReplicaStatus,
    Request,
    Scheduler,
    SchedulerStatus,
    Trust,
)
from preble_plugin.core.status import ShadowStatus
from preble_plugin.feed.actions import Position
from preble_plugin.service.checks import check_policy
from preble_plugin.service.interface import ReplicaSpec, Unplaced
from preble_plugin.service.recording import recording_of
from preble_plugin.service.replica_streams import ReplicaStreams
from preble_plugin.service.snapshots import SavedResidency, Taken
from preble_plugin.settings import Settings

Translate: TypeAlias = Callable[[ReplicaId, Sequence[CacheEvent]], Sequence[CacheEvent]]
"""An adapter's say in a replica's events before they are applied: whose blocks an event
speaks of, where the engine's hashes alone tell. What raises counts as events lost."""


class ReplicaConflictError(ValueError):
    """Replicas that one scheduler cannot serve together."""


class SchedulerHost:
    """Serves the replicas stated to it.

    `recall` gives what was saved of a replica before a restart; `translate` is asked
    for the meaning of each batch of a replica's events, in order. Raises
    `SettingsError` for a policy that does not exist.
    """

    def __init__(
        self,
        settings: Settings,
        seed: bytes | None = None,
        recall: Callable[[ReplicaSpec], SavedResidency | None] = lambda spec: None,
        translate: Translate | None = None,
    ) -> None:
        check_policy(settings)
        self.settings = settings
        self.scheduler: Scheduler | None = None
        self.clock = time.monotonic
        self._seed = seed
        self._translate = translate
        self._recording = recording_of(settings)
        self._specs: dict[ReplicaId, ReplicaSpec] = {}
        self._streams = ReplicaStreams(self, recall, self._restore)

    @property
    def hasher(self) -> BlockHasher | None:
        """The scheduler's; None until replicas are stated."""
        return self.scheduler.hasher if self.scheduler is not None else None

    def replicas(self) -> list[ReplicaId]:
        """The replicas there are."""
        return list(self._specs)

    def set_replicas(self, specs: Sequence[ReplicaSpec]) -> None:
        """These are the replicas now. Raises `ReplicaConflictError` where their
        blocks differ from each other's or from the scheduler's; nothing is
        changed then."""
        self._check_blocks(specs)
        if self.scheduler is None:
            if not specs:
                return
            self.scheduler = self._build(specs[0])
        stated = {spec.replica: spec for spec in specs}
        for replica in [known for known in self._specs if known not in stated]:
            self._unfollow(replica)
            self.scheduler.remove_replica(replica)
            if self._recording is not None:
                self._recording.forget_replica(replica)
            del self._specs[replica]
        for spec in stated.values():
            self._set_replica(self.scheduler, spec)

    def place(self, request: Request) -> Placement | Unplaced:
        """Place a request now. Raises for a fault of the scheduler's own."""
        if self.scheduler is None:
            return Unplaced("not_ready")
        now = self.clock()
        try:
            placement = self.scheduler.place(request, now)
        except NoReplicaError:
            return Unplaced("no_replica")
        if self._recording is not None:
            self._recording.asked(request, self.scheduler.block_size, placement.replica, now)
        return placement

    def settle(self) -> None:
        """Do what the last placement left for after its answer."""
        if self.scheduler is not None:
            self.scheduler.settle()

    def dispatched(
        self, request: Request, replica: ReplicaId, started: bool = False, shadow: bool = False
    ) -> None:
        """Account for a request that went to `replica` by another's decision;
        `started` if it has produced its first token already, `shadow` if it is to be
        decided on nevertheless."""
        if self.scheduler is None:
            return
        now = self.clock()
        # When one that has started came is not known: it is not recorded.
        if self._recording is not None and not started:
            self._recording.asked(request, self.scheduler.block_size, replica, now)
        self.scheduler.dispatched(request, replica, now, started, shadow)

    def withdraw(self, request_id: str, replica: ReplicaId) -> None:
        """A request did not go to `replica` after all, or nobody will say how it ended."""
        if self._recording is not None:
            self._recording.forget([request_id])
        if self.scheduler is not None:
            end = Finished(request_id, 0, aborted=True)
            self.scheduler.observe(replica, [end], self.clock())

    def observe(self, replica: ReplicaId, outcomes: Sequence[Outcome], now: float) -> None:
        """Take in what the engine said at `now` of requests on `replica`."""
        if self._recording is not None:
            self._recording.observe(replica, outcomes, now)
        if self.scheduler is not None:
            self.scheduler.observe(replica, outcomes, now)

    def report(self, replica: ReplicaId, report: LoadReport) -> list[str]:
        """Take in what a replica says of itself; the ids of requests that it proves
        to be gone without a word."""
        if self.scheduler is None:
            return []
        lost = self.scheduler.report(replica, report, self.clock())
        if self._recording is not None:
            self._recording.forget(lost)
        return lost

    def explain(self, request_id: str) -> list[Receipt]:
        """The decisions kept for a request, by either of its ids."""
        return self.scheduler.explain(request_id) if self.scheduler is not None else []

    def status(self) -> SchedulerStatus | None:
        """The scheduler's state with its streams' and the recording's numbers; None
        before replicas are stated."""
        if self.scheduler is None:
            return None
        status = self.scheduler.status(self.clock())
        merged = [self._with_stream(one) for one in status.replicas]
        shadow = status.shadow or ShadowStatus() if self.settings.shadow else None
        recording = self._recording.status() if self._recording is not None else None
        return msgspec.structs.replace(status, replicas=merged, shadow=shadow, recording=recording)

    async def start(self) -> None:
        """Begin to follow events, and to record."""
        if self._recording is not None:
            self._recording.start()
        await self._streams.start()

    async def close(self) -> None:
        """Follow no more events; write what was to be recorded."""
        await self._streams.close()
        if self._recording is not None:
            await asyncio.to_thread(self._recording.close)

    # -- snapshots -----------------------------------------------------------------

    def position(self, replica: ReplicaId) -> Position | None:
        """Where the replica's stream stands, if it has one that can be resumed."""
        return self._streams.position(replica)

    def take_snapshot(self, replica: ReplicaId) -> Taken | None:
        """The replica's residency and where its stream stands, taken together."""
        position = self.position(replica)
        spec = self._specs.get(replica)
        if position is None or spec is None or self.scheduler is None:
            return None
        captured = self.scheduler.snapshot(replica, self.settings.snapshot_blocks)
        return Taken(spec, position, captured.encode) if captured is not None else None

    # -- what the streams say (feed's sink) -------------------------------------------

    def apply(self, replica: ReplicaId, events: Sequence[CacheEvent], now: float) -> int:
        """Events of a replica, in order; how many of them could not be applied. Raises
        what `translate` raises, with nothing applied."""
        if self._translate is not None:
            events = self._translate(replica, events)
        return self.scheduler.apply(replica, events, now) if self.scheduler is not None else 0

    def reset(self, replica: ReplicaId) -> None:
        """What was believed of a replica's cache no longer holds."""
        if self.scheduler is not None:
            self.scheduler.clear_residency(replica)

    def trust(self, replica: ReplicaId, trust: Trust) -> None:
        """How far a replica's events can be believed from here on."""
        if self.scheduler is not None:
            self.scheduler.set_trust(replica, trust)

    # -- replicas ------------------------------------------------------------------

    def _check_blocks(self, specs: Sequence[ReplicaSpec]) -> None:
        hasher = self.hasher
        expected = (hasher.block_size, hasher.lookahead_tokens) if hasher is not None else None
        for spec in specs:
            found = spec.block_size, spec.lookahead_tokens
            expected = expected or found
            if found != expected or spec.block_size < 1:
                raise ReplicaConflictError(
                    f"replica {spec.replica!r} has blocks of {_words(found)}, the scheduler "
                    f"{_words(expected)}; replicas of one scheduler need blocks of one kind"
                )

    def _build(self, spec: ReplicaSpec) -> Scheduler:
        return Scheduler(
            spec.block_size,
            lookahead_tokens=spec.lookahead_tokens,
            policy=self.settings.policy,
            seed=self._seed,
            window_seconds=self.settings.window_seconds,
            receipts=self.settings.receipts,
            max_tree_blocks=self.settings.max_tree_blocks,
        )

    def _set_replica(self, scheduler: Scheduler, spec: ReplicaSpec) -> None:
        known = self._specs.get(spec.replica)
        if known == spec:
            return
        scheduler.add_replica(
            spec.replica,
            capacity_blocks=spec.capacity_blocks,
            drop_blocks=spec.drop_blocks,
            max_running=spec.max_running,
        )
        self._specs[spec.replica] = spec
        if known is not None and known.events == spec.events:
            return
        if known is not None:
            self._unfollow(spec.replica)
            scheduler.clear_residency(spec.replica)
        if spec.events is not None:
            self._streams.follow(spec)

    def _restore(self, replica: ReplicaId, residency: bytes) -> None:
        if self.scheduler is not None:
            self.scheduler.restore(replica, residency)

    def _unfollow(self, replica: ReplicaId) -> None:
        self._streams.unfollow(replica)
        if self.scheduler is not None:
            self.scheduler.set_trust(replica, Trust.SILENT)

    def _with_stream(self, one: ReplicaStatus) -> ReplicaStatus:
        stream = self._streams.status(one.replica)
        if stream is None:
            return one
        return msgspec.structs.replace(
            one,
            event_lag_seconds=stream.lag_seconds,
            event_gaps=stream.gaps,
            event_batches=stream.batches,
            event_errors=stream.errors,
        )


def _words(block: tuple[int, int]) -> str:
    size, lookahead = block
    return f"{size} tokens" + (f" and {lookahead} after each" if lookahead else "")
