"""The scheduler: one request in, one replica out; events and outcomes back in.

1. `place` walks the prefix tree, prices the replicas as the policy asks, and
   answers. The request is booked on the one chosen (its load, its expected blocks,
   its receipt) after the answer: by `settle`, or before anything else is done.
2. `dispatched` books a request where another's decision sent it; in shadow mode the
   policy decides on it too, and the receipt keeps what it would have chosen.
3. `apply` feeds a replica's cache events to its residency.
4. `observe` tells what became of requests: first tokens correct the load, teach
   the time model and audit the prediction; finished ones end expectations.
   `report` takes in what a replica says of itself, where its engine does.

Pure and synchronous: time comes in as an argument (seconds), nothing goes
out but return values. Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from preble_plugin.core.block_keys import BlockHasher
from preble_plugin.core.bookings import Bookings
from preble_plugin.core.candidate import ReplicaCandidate
from preble_plugin.core.events import CacheEvent, Clear
from preble_plugin.core.expectations import Awaited
from preble_plugin.core.policies.protocol import Policy
from preble_plugin.core.policies.registry import load_policy
from preble_plugin.core.pool import Pool
from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.receipts import Receipt, ReceiptRing, WouldBe
from preble_plugin.core.replica import Replica
from preble_plugin.core.report import LoadReport
from preble_plugin.core.request import (
    MAX_SECONDS,
    Outcome,
    Placement,
    ReplicaId,
    Request,
    check_seconds,
)
from preble_plugin.core.residency import EventOutcome
from preble_plugin.core.shadow import ShadowCount
from preble_plugin.core.snapshot import ResidencyCapture, capture, restore
from preble_plugin.core.status import SchedulerStatus, Trust
from preble_plugin.core.time_model import TimeModel
from preble_plugin.core.view import Fleet, PlacementView

MIN_WINDOW_SECONDS: Final = 1.0
MAX_WINDOW_SECONDS: Final = 86_400.0
POOL_SHARE: Final = 4
"""A shared pool adds at most one in so many of `max_tree_blocks` to the tree."""


class NoReplicaError(LookupError):
    """There is no replica to place on, or not the one the user fixed."""


class Scheduler:
    """Places requests on replicas by Preble's E2 or another policy.

    `block_size` is the engine's, in tokens, and `lookahead_tokens` what its hashes cover
    behind each block. `policy` is a name (`policies.registry`),
    or a policy made already, which must serve no other scheduler. `window_seconds` is
    the window H, from 1 s to a day. Raises `ValueError` for a window outside that, and
    for an unknown policy, with those there are.

    Times are seconds on any clock that does not jump, the wall clock or a monotonic one.
    Every method that takes a time raises `ValueError` for one that is NaN or infinite,
    and has then changed nothing.
    """

    def __init__(
        self,
        block_size: int,
        *,
        policy: str | Policy = "e2",
        seed: bytes | None = None,
        window_seconds: float = 180.0,
        receipts: int = 10_000,
        max_tree_blocks: int = 8_000_000,
        lookahead_tokens: int = 0,
    ) -> None:
        if not MIN_WINDOW_SECONDS <= window_seconds <= MAX_WINDOW_SECONDS:
            raise ValueError(
                f"window_seconds takes {MIN_WINDOW_SECONDS:g} to {MAX_WINDOW_SECONDS:g} seconds, "
                f"got {window_seconds!r}; 180 is the default"
            )
        self.hasher = BlockHasher(block_size, seed, lookahead_tokens)
        self.block_size = block_size
        self._policy = load_policy(policy) if isinstance(policy, str) else policy
        self._window_seconds = window_seconds
        self._tree = PrefixTree(max_tree_blocks)
        self._pool = Pool(self._tree, max_tree_blocks // POOL_SHARE)
        self._common_model = TimeModel()
        self._awaited = Awaited()
        self._replicas: dict[ReplicaId, Replica] = {}
        self._columns = 0
        self._receipts = ReceiptRing(receipts)
        self._bookings = Bookings(self._tree, self._receipts, window_seconds)
        self._fleet = Fleet((), self._bookings.active_blocks, self._bookings.lately)
        self._shadow = ShadowCount()
        self._skipped_events = 0
        self._due: tuple[PlacementView, ReplicaCandidate, str] | None = None
        """A decision that is not booked yet."""

    # -- replicas ----------------------------------------------------------------

    @property
    def replicas(self) -> tuple[ReplicaId, ...]:
        """The replicas there are, in order of their slots."""
        return tuple(self._replicas)

    def add_replica(
        self,
        replica: ReplicaId,
        *,
        capacity_blocks: int | None = None,
        drop_blocks: int = 0,
        max_running: int | None = None,
    ) -> None:
        """Add a replica, or state anew what is known of one. O(1)."""
        self.settle()
        known = self._replicas.get(replica)
        if known is None:
            taken = {one.index for one in self._replicas.values()}
            index = next(i for i in range(len(taken) + 1) if i not in taken)
            known = Replica(
                replica,
                index,
                self._tree,
                self.hasher,
                self._pool,
                self._common_model,
                self._awaited,
                window_seconds=self._window_seconds,
            )
            members = sorted((*self._replicas.values(), known), key=lambda one: one.index)
            self._replicas = {one.name: one for one in members}
            self._columns |= 1 << known.column
        known.capacity_blocks = capacity_blocks
        known.drop_blocks = drop_blocks
        known.load.max_running = max_running
        self._look_again()

    def remove_replica(self, replica: ReplicaId) -> None:
        """Forget a replica and the requests on it. Unknown ones are ignored."""
        self.settle()
        gone = self._replicas.pop(replica, None)
        if gone is None:
            return
        self._bookings.leave(gone)
        gone.expectations.close()
        self._columns &= ~(1 << gone.column)
        gone.residency.close()
        if not self._replicas:
            self._pool.close()
        self._look_again()

    def set_trust(self, replica: ReplicaId, trust: Trust) -> None:
        """State how far a replica's events can be believed."""
        self.settle()
        known = self._replicas.get(replica)
        if known is not None:
            known.stream_trust = trust
            self._trust_changed(known)

    # -- requests ----------------------------------------------------------------

    def place(self, request: Request, now: float) -> Placement:
        """Decide where a request runs; it is booked there by `settle`, or by whatever
        is called next.

        Raises `NoReplicaError`. O(prompt blocks hashed by the caller + nodes on
        the path + replicas), independent of history.
        """
        if not -MAX_SECONDS < now < MAX_SECONDS:
            check_seconds("now", now)
        if not self._replicas:
            raise NoReplicaError("no replicas: call add_replica() first")
        fixed = request.fixed_replica
        if fixed is not None and fixed not in self._replicas:
            raise NoReplicaError(f"replica {fixed!r} is not among {list(self._replicas)}")
        view = self._view(request, now)
        chosen, branch = self._decide(view)
        self._due = view, chosen, branch
        return Placement(request.request_id, chosen.source.name, chosen.hit_tokens, branch)

    def settle(self) -> None:
        """Book what was placed last: half of the work of a placement, which the answer
        need not wait for. Idempotent."""
        due = self._due
        if due is not None:
            self._due = None
            self._book(*due)

    def dispatched(
        self,
        request: Request,
        replica: ReplicaId,
        now: float,
        started: bool = False,
        shadow: bool = False,
    ) -> None:
        """Account for a request that the engine's own dispatch sent to `replica`.

        One already booked elsewhere moves there; one sent to an unknown replica is booked
        nowhere.
        `started` says that it has had its first token: told again after a
        restart, it counts as load and teaches the time model nothing. With `shadow`
        the policy decides as if it were asked: the receipt keeps what it would have
        chosen. What the policy raises then comes out of here, with the request booked.
        """
        check_seconds("now", now)
        view = self._view(request, now)
        if replica not in self._replicas:
            return
        chosen = view.candidates[self.replicas.index(replica)]
        would_be = None
        try:
            if shadow:
                would_be = self._shadow.compare(request, chosen, *self._decide(view))
        finally:
            self._book(view, chosen, "engine", started, would_be)

    def observe(self, replica: ReplicaId, outcomes: Sequence[Outcome], now: float) -> None:
        """What one message of the engine on `replica` says of its requests. Outcomes of
        requests that are not in flight there, as of those that moved to another replica
        since, are ignored; so what comes of several replicas takes a call for each. A
        first token counts once. O(outcomes + paths of those finished)."""
        check_seconds("now", now)
        self.settle()
        known = self._replicas.get(replica)
        if known is not None:
            self._bookings.observe(known, outcomes, now)
        # Here rather than in `place`, where it would be waited for.
        self._awaited.expire(now)

    def report(self, replica: ReplicaId, report: LoadReport, now: float) -> list[str]:
        """What a replica says of itself: it teaches the time model in place of first
        tokens and ends, and releases requests whose ends were lost, whose ids it
        returns. Those of unknown replicas, and such as are not newer than the last, are
        ignored. O(1), for an idle report O(requests in flight)."""
        check_seconds("now", now)
        self.settle()
        known = self._replicas.get(replica)
        if known is None or not known.reported(report, now):
            return []
        return self._bookings.lose(known, now)

    # -- events ------------------------------------------------------------------

    def apply(self, replica: ReplicaId, events: Iterable[CacheEvent], now: float) -> int:
        """Apply a replica's cache events in order; returns how many were skipped.
        O(blocks). Never raises for what an event says; `ValueError` for a time that is no
        number of seconds."""
        check_seconds("now", now)
        self.settle()
        known = self._replicas.get(replica)
        if known is None:
            skipped = sum(1 for _ in events)
        else:
            skipped, residency = 0, known.residency
            complete = residency.complete
            for event in events:
                if residency.apply(event) is EventOutcome.SKIPPED:
                    skipped += 1
                elif isinstance(event, Clear):
                    known.expectations.cleared()
            if residency.complete is not complete:
                self._trust_changed(known)
        self._skipped_events += skipped
        return skipped

    def clear_residency(self, replica: ReplicaId) -> None:
        """Forget what is believed of a replica's cache: its publisher restarted,
        or what was lost cannot be had again."""
        self.settle()
        known = self._replicas.get(replica)
        if known is not None:
            known.residency.forget()
            known.expectations.forget()
            self._trust_changed(known)

    def snapshot(self, replica: ReplicaId, max_blocks: int) -> ResidencyCapture | None:
        """A replica's residency as of now, to be encoded at leisure; None for an
        unknown replica, one that holds more than `max_blocks` blocks, and one whose
        residency is not complete."""
        self.settle()
        known = self._replicas.get(replica)
        if known is None:
            return None
        residency = known.residency
        if residency.hash_count > max_blocks or residency.orphan_count or not residency.complete:
            return None
        return capture(self._tree, residency)

    def restore(self, replica: ReplicaId, snapshot: bytes) -> None:
        """Replace a replica's residency by an encoded snapshot of it. Raises
        `ValueError` on one that cannot be read."""
        self.settle()
        known = self._replicas.get(replica)
        if known is not None:
            restore(self._tree, known.residency, snapshot)
            self._trust_changed(known)

    # -- looking -----------------------------------------------------------------

    def explain(self, request_id: str) -> list[Receipt]:
        """The receipts of a request, by the engine's id or the client's."""
        self.settle()
        return self._receipts.find(request_id)

    def status(self, now: float) -> SchedulerStatus:
        """The whole as numbers, as of `now`. O(requests in flight + replicas, and the
        paths of what is no longer expected by then)."""
        check_seconds("now", now)
        self.settle()
        self._awaited.expire(now)
        return SchedulerStatus(
            policy=self._policy.name,
            block_size=self.block_size,
            replicas=[one.status(now) for one in self._replicas.values()],
            tree_nodes=self._tree.nodes,
            tree_blocks=self._tree.blocks,
            receipts=len(self._receipts),
            in_flight=len(self._bookings),
            placements=self._bookings.placements,
            skipped_events=self._skipped_events,
            shadow=self._shadow.status(),
        )

    # -- bookkeeping ---------------------------------------------------------------

    def _view(self, request: Request, now: float) -> PlacementView:
        """The decision as it stands once what ends by itself has ended, and all that
        an earlier request of this id left: ending expectations frees and merges
        nodes, so it comes before the tree is walked."""
        self.settle()
        awaited = self._awaited
        if awaited.due and awaited.due[0][0] <= now:
            awaited.expire(now)
        self._bookings.withdraw(request.request_id, now)
        if request.request_id in awaited.by_request:
            awaited.end(request.request_id)
        match = self._tree.match(request.keys, self._columns)
        return PlacementView(request, self._fleet, match, self.block_size, now)

    def _decide(self, view: PlacementView) -> tuple[ReplicaCandidate, str]:
        """Where a request is to run, and by which rule. Nothing is booked."""
        fixed = view.request.fixed_replica
        if fixed is not None and fixed in self._replicas:
            return view.candidates[self.replicas.index(fixed)], "fixed"
        position, branch = self._policy.choose(view)
        return view.candidates[position], branch

    def _book(
        self,
        view: PlacementView,
        chosen: ReplicaCandidate,
        branch: str,
        started: bool = False,
        would_be: WouldBe | None = None,
    ) -> None:
        request, match = view.request, view.match
        chosen.price()
        self._tree.grow(request.keys, match)
        receipt = Receipt(
            request.request_id,
            request.external_id,
            view.now,
            self._policy.name,
            branch,
            chosen.source.name,
            request.prompt_tokens,
            chosen.hit_tokens,
            would_be=would_be,
        )
        figures = view.figures(chosen, None if would_be is None else would_be.replica)
        self._bookings.add(request, chosen, match.path, receipt, figures, view.now, started)

    def _trust_changed(self, replica: Replica) -> None:
        self._look_again()
        if replica.trust is Trust.EXACT:
            replica.expectations.trust_again()

    def _look_again(self) -> None:
        """The replicas, or how far they can be trusted, are not what they were."""
        bookings = self._bookings
        self._fleet = Fleet(tuple(self._replicas.values()), bookings.active_blocks, bookings.lately)
