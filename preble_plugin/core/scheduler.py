"""The scheduler: one request in, one replica out; events and outcomes back in.

1. `place` walks the prefix tree, prices the replicas as the policy asks, and
   books the request on the one chosen: its load, its expected blocks, its
   receipt.
2. `apply` feeds a replica's cache events to its residency.
3. `observe` tells what became of requests: first tokens correct the load, teach
   the time model and audit the prediction; finished ones end expectations.

Pure and synchronous: time comes in as an argument (seconds, monotonic), nothing
goes out but return values. Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from preble_plugin.core.block_keys import BlockHasher
from preble_plugin.core.events import CacheEvent
from preble_plugin.core.match import Match
from preble_plugin.core.policies.registry import load_policy
from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.receipts import Receipt, ReceiptRing
from preble_plugin.core.replica import Replica
from preble_plugin.core.request import (
    Finished,
    FirstToken,
    Outcome,
    Placement,
    ReplicaId,
    Request,
)
from preble_plugin.core.snapshot import ResidencyCapture, capture, restore
from preble_plugin.core.status import SchedulerStatus, Trust
from preble_plugin.core.usage import count_use
from preble_plugin.core.view import PlacementView, ReplicaCandidate, candidates_for


class NoReplicaError(LookupError):
    """There is no replica to place on, or not the one the user fixed."""


class _Booking:
    """A request in flight."""

    __slots__ = ("placed_at", "predicted", "prompt_tokens", "receipt", "replica")

    def __init__(
        self, replica: Replica, prompt_tokens: int, predicted: int, receipt: Receipt, now: float
    ) -> None:
        self.replica = replica
        self.prompt_tokens = prompt_tokens
        self.predicted = predicted
        self.receipt = receipt
        self.placed_at = now


class Scheduler:
    """Places requests on replicas by Preble's E2 or another policy.

    `block_size` is the engine's, in tokens. Raises `ValueError` for an unknown
    policy, naming those there are.
    """

    def __init__(
        self,
        block_size: int,
        *,
        policy: str = "e2",
        seed: bytes | None = None,
        window_seconds: float = 180.0,
        receipts: int = 10_000,
        max_tree_blocks: int = 8_000_000,
    ) -> None:
        self.hasher = BlockHasher(block_size, seed)
        self.block_size = block_size
        self._policy = load_policy(policy)
        self._window_seconds = window_seconds
        self._max_tree_blocks = max_tree_blocks
        self._tree = PrefixTree()
        self._replicas: dict[ReplicaId, Replica] = {}
        self._by_column: dict[int, Replica] = {}
        self._columns = 0
        self._bookings: dict[str, _Booking] = {}
        self._receipts = ReceiptRing(receipts)
        self._placements = 0
        self._skipped_events = 0

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
        known = self._replicas.get(replica)
        if known is None:
            taken = {one.index for one in self._replicas.values()}
            index = next(i for i in range(len(taken) + 1) if i not in taken)
            known = Replica(
                replica,
                index,
                self._tree,
                self.hasher,
                window_seconds=self._window_seconds,
                max_tree_blocks=self._max_tree_blocks,
            )
            members = sorted((*self._replicas.values(), known), key=lambda one: one.index)
            self._replicas = {one.name: one for one in members}
            self._by_column = {one.column: one for one in members}
            self._columns |= 1 << known.column
        known.capacity_blocks = capacity_blocks
        known.drop_blocks = drop_blocks
        known.load.max_running = max_running

    def remove_replica(self, replica: ReplicaId) -> None:
        """Forget a replica and the requests on it. Unknown ones are ignored."""
        gone = self._replicas.pop(replica, None)
        if gone is None:
            return
        for request_id, booking in list(self._bookings.items()):
            if booking.replica is gone:
                del self._bookings[request_id]
        gone.expectations.close()
        del self._by_column[gone.column]
        self._columns &= ~(1 << gone.column)
        gone.residency.close()

    def set_trust(self, replica: ReplicaId, trust: Trust) -> None:
        """State how far a replica's events can be believed."""
        known = self._replicas.get(replica)
        if known is not None:
            known.trust = trust

    # -- requests ----------------------------------------------------------------

    def place(self, request: Request, now: float) -> Placement:
        """Decide where a request runs, and book it there.

        Raises `NoReplicaError`. O(prompt blocks hashed by the caller + nodes on
        the path + replicas), independent of history.
        """
        if not self._replicas:
            raise NoReplicaError("there is no replica yet: set_replicas() comes first")
        fixed = request.fixed_replica
        if fixed is not None and fixed not in self._replicas:
            raise NoReplicaError(f"replica {fixed!r} is not among {list(self._replicas)}")
        self._expire(now)
        match = self._tree.match(request.keys, self._columns)
        candidates = candidates_for(request, match, self._by_column, self.block_size, now)
        if fixed is not None:
            chosen = next(one for one in candidates if one.source.name == fixed)
            branch = "fixed"
        else:
            position, branch = self._policy.choose(PlacementView(request, candidates, now))
            chosen = candidates[position]
        self._book(request, chosen, branch, candidates, match, now)
        return Placement(request.request_id, chosen.source.name, chosen.hit_tokens, branch)

    def dispatched(self, request: Request, replica: ReplicaId, now: float) -> None:
        """Account for a request that the engine's own dispatch sent to `replica`.
        A request already booked elsewhere moves there; unknown replicas are ignored."""
        if replica not in self._replicas:
            return
        self._expire(now)
        match = self._tree.match(request.keys, self._columns)
        candidates = candidates_for(request, match, self._by_column, self.block_size, now)
        chosen = next(one for one in candidates if one.source.name == replica)
        self._book(request, chosen, "engine", candidates, match, now)

    def observe(self, replica: ReplicaId, outcomes: Sequence[Outcome], now: float) -> None:
        """What one message of the engine said of requests on `replica`. Those that
        are not in flight are ignored. O(outcomes + paths of those finished)."""
        first: list[FirstToken] = []
        for outcome in outcomes:
            booking = self._bookings.get(outcome.request_id)
            if booking is None:
                continue
            if isinstance(outcome, FirstToken):
                first.append(outcome)
                self._audit(booking, outcome, now)
            else:
                if first:
                    self._first_tokens(first, now)
                    first = []
                self._finish(booking, outcome, now)
        if first:
            self._first_tokens(first, now)

    # -- events ------------------------------------------------------------------

    def apply(self, replica: ReplicaId, events: Iterable[CacheEvent], now: float) -> int:
        """Apply a replica's cache events in order; returns how many were skipped.
        O(blocks). Never raises for what an event says."""
        known = self._replicas.get(replica)
        skipped = 0
        for event in events:
            if known is None or not known.residency.apply(event):
                skipped += 1
        if known is not None:
            known.eviction.changed()
        self._skipped_events += skipped
        return skipped

    def clear_residency(self, replica: ReplicaId) -> None:
        """Forget what is believed of a replica's cache: its publisher restarted,
        or what was lost cannot be had again."""
        known = self._replicas.get(replica)
        if known is not None:
            known.residency.clear()
            known.eviction.changed()

    def snapshot(self, replica: ReplicaId, max_blocks: int) -> ResidencyCapture | None:
        """A replica's residency as of now, to be encoded at leisure; None for an
        unknown replica, or one that holds more than `max_blocks` blocks."""
        known = self._replicas.get(replica)
        if known is None or len(known.residency.ids) > max_blocks:
            return None
        return capture(self._tree, known.residency)

    def restore(self, replica: ReplicaId, snapshot: bytes) -> None:
        """Replace a replica's residency by an encoded snapshot of it. Raises
        `ValueError` on one that cannot be read."""
        known = self._replicas.get(replica)
        if known is not None:
            restore(known.residency, snapshot)
            known.eviction.changed()

    # -- looking -----------------------------------------------------------------

    def explain(self, request_id: str) -> list[Receipt]:
        """The receipts of a request, by the engine's id or the client's."""
        return self._receipts.find(request_id)

    def status(self, now: float) -> SchedulerStatus:
        """The whole as numbers. O(requests in flight + replicas)."""
        return SchedulerStatus(
            policy=self._policy.name,
            block_size=self.block_size,
            replicas=[one.status(now) for one in self._replicas.values()],
            tree_nodes=self._tree.nodes,
            tree_blocks=self._tree.blocks,
            receipts=len(self._receipts),
            in_flight=len(self._bookings),
            placements=self._placements,
            skipped_events=self._skipped_events,
        )

    # -- bookkeeping ---------------------------------------------------------------

    def _book(
        self,
        request: Request,
        chosen: ReplicaCandidate,
        branch: str,
        candidates: list[ReplicaCandidate],
        match: Match,
        now: float,
    ) -> None:
        request_id = request.request_id
        earlier = self._bookings.pop(request_id, None)
        if earlier is not None:
            self._drop(request_id, earlier, now)
        replica = chosen.source
        expected_output = replica.output_lengths.expected(request.max_output_tokens)
        if self._tree.blocks + len(request.keys) // 8 <= self._max_tree_blocks:
            self._tree.grow(request.keys, match)
        for node in match.path:
            count_use(node, replica.column, now, self._window_seconds)
        replica.expectations.begin(request_id, match.path)
        self._tree.touch(match.path[-1] if match.path else None, replica.column)
        replica.eviction.changed()
        replica.load.placed(
            request_id,
            chosen.miss_tokens,
            request.prompt_tokens,
            expected_output,
            now,
        )
        replica.tokens_in_flight += request.prompt_tokens
        replica.placements += 1
        self._placements += 1
        receipt = Receipt(
            request_id,
            request.external_id,
            now,
            self._policy.name,
            branch,
            replica.name,
            request.prompt_tokens,
            chosen.hit_tokens,
            [one.receipt() for one in candidates],
        )
        self._receipts.add(receipt)
        self._bookings[request_id] = _Booking(
            replica, request.prompt_tokens, chosen.hit_tokens, receipt, now
        )

    def _audit(self, booking: _Booking, outcome: FirstToken, now: float) -> None:
        booking.receipt.first_token_seconds = now - booking.placed_at
        if outcome.cached_tokens is None:
            return
        booking.receipt.actual_cached_tokens = outcome.cached_tokens
        replica = booking.replica
        replica.predicted_cached_tokens += booking.predicted
        replica.actual_cached_tokens += outcome.cached_tokens
        replica.audited_requests += 1
        replica.exact_audits += outcome.cached_tokens == booking.predicted

    def _first_tokens(self, outcomes: list[FirstToken], now: float) -> None:
        self._bookings[outcomes[0].request_id].replica.load.first_token(outcomes, now)

    def _finish(self, booking: _Booking, outcome: Finished, now: float) -> None:
        request_id = outcome.request_id
        del self._bookings[request_id]
        booking.receipt.output_tokens = outcome.output_tokens
        booking.receipt.finish = "aborted" if outcome.aborted else "finished"
        replica = booking.replica
        replica.tokens_in_flight -= booking.prompt_tokens
        self._tree.touch(replica.expectations.leaf(request_id), replica.column)
        replica.eviction.changed()
        if outcome.aborted:
            replica.load.drop(request_id, now)
            if booking.receipt.first_token_seconds is None:
                replica.expectations.end(request_id)
                return
        else:
            replica.load.finished(request_id, outcome.output_tokens, now)
            replica.output_lengths.observe(outcome.output_tokens)
        replica.expectations.finish(request_id, now, replica.exact)

    def _drop(self, request_id: str, booking: _Booking, now: float) -> None:
        booking.replica.tokens_in_flight -= booking.prompt_tokens
        booking.replica.load.drop(request_id, now)
        booking.replica.expectations.end(request_id)

    def _expire(self, now: float) -> None:
        for replica in self._replicas.values():
            replica.expectations.expire(now, replica.exact, replica.capacity_blocks)
