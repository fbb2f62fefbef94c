"""Requests in flight: what each was booked for, and what became of it.

1. A placement books its request on a replica: load, expected blocks, use of the
   prefix in the window.
2. Its first token frees the prefill share of the load, teaches the time model,
   and audits the predicted hit against the engine's own number. Each of these
   happens once, however often the token is reported.
3. Its end frees the rest. A finished request's blocks are the most recently
   used of the replica's cache again, as in the engine's own LRU; an aborted
   one that had no token yet leaves no expectation behind.
4. Outcomes count on the replica that the request is booked on. Those that another
   replica reports are ignored: they are of an attempt that moved on.
5. An end that was lost is made up for when the replica says that it is still. Where no
   replica says so, the oldest of more than `MAX_IN_FLIGHT` requests is taken as lost.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import msgspec

from preble_plugin.core.active_blocks import ActiveBlocks
from preble_plugin.core.candidate import ReplicaCandidate
from preble_plugin.core.node import Node
from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.receipts import Figures, Receipt, ReceiptRing
from preble_plugin.core.replica import Replica
from preble_plugin.core.request import Finished, FirstToken, Outcome, Request
from preble_plugin.core.status import Trust
from preble_plugin.core.usage import Placements, first_use

MAX_IN_FLIGHT: Final = 262_144
"""Requests in flight on all replicas together. Fleets run fewer; without a bound, each end
that nobody reports would stay for ever where replicas send no load reports."""


class _Booking(msgspec.Struct):
    replica: Replica
    receipt: Receipt
    keys: bytes
    started: bool
    """Whether its first token was reported."""


class Bookings:
    """All requests in flight. Requests that are not are ignored throughout."""

    def __init__(self, tree: PrefixTree, receipts: ReceiptRing, window_seconds: float) -> None:
        self._tree = tree
        self._receipts = receipts
        self._window_seconds = window_seconds
        self._in_flight: OrderedDict[str, _Booking] = OrderedDict()
        self._active: ActiveBlocks | None = None
        self.max_in_flight = MAX_IN_FLIGHT
        self.placements = 0
        self.lately = Placements(window_seconds)
        """Those of the window."""

    def __len__(self) -> int:
        return len(self._in_flight)

    def active_blocks(self) -> ActiveBlocks:
        """Blocks of the prompts in flight: kept from the first call on. O(1); the first
        time, O(what is in flight)."""
        active = self._active
        if active is None:
            active = self._active = ActiveBlocks()
            for request_id, booking in self._in_flight.items():
                active.begin(request_id, booking.replica.name, booking.keys)
        return active

    def withdraw(self, request_id: str, now: float) -> None:
        """Take back what is booked of a request, but for what is expected of it. O(1),
        O(path) where active blocks are kept."""
        earlier = self._in_flight.pop(request_id, None)
        if earlier is not None:
            earlier.replica.tokens_in_flight -= earlier.receipt.prompt_tokens
            earlier.replica.load.drop(request_id, now)
            if self._active is not None:
                self._active.end(request_id)

    def add(
        self,
        request: Request,
        chosen: ReplicaCandidate,
        path: list[Node],
        receipt: Receipt,
        figures: Figures,
        now: float,
        started: bool = False,
    ) -> None:
        """Book a request whose prompt is `path`, withdrawn before the tree was walked
        for it. `started` says that it has had its first token; `figures` are the
        receipt's. O(path)."""
        request_id = request.request_id
        replica = chosen.source
        first = first_use(now, self._window_seconds)
        self.lately.count(first)
        if path:
            replica.expectations.begin(request_id, path, first)
        prompt_tokens = request.prompt_tokens
        output_tokens = replica.output_lengths.expected(request.max_output_tokens)
        if started or not request.computes:
            replica.load.resumed(request_id, prompt_tokens, output_tokens, now)
        else:
            replica.load.placed(
                request_id,
                chosen.miss_tokens,
                prompt_tokens,
                output_tokens,
                now,
                chosen.hit_tokens,
                chosen.loads,
            )
        replica.tokens_in_flight += prompt_tokens
        replica.placements += 1
        self.placements += 1
        self._receipts.add(receipt, figures)
        self._in_flight[request_id] = _Booking(replica, receipt, request.keys, started)
        if self._active is not None:
            self._active.begin(request_id, replica.name, request.keys)
        if len(self._in_flight) > self.max_in_flight:
            self._lose(next(iter(self._in_flight)), now)

    def observe(self, replica: Replica, outcomes: Sequence[Outcome], now: float) -> None:
        """What one engine message of `replica` reports, in order. O(outcomes + paths of
        those finished)."""
        first: list[FirstToken] = []
        for outcome in outcomes:
            booking = self._in_flight.get(outcome.request_id)
            if booking is None or booking.replica is not replica:
                continue
            if isinstance(outcome, FirstToken):
                if self._first_token(booking, outcome, now):
                    first.append(outcome)
                continue
            if first:
                replica.load.first_token(first, now)
                first = []
            self._finish(booking, outcome, now)
        if first:
            replica.load.first_token(first, now)

    def _first_token(self, booking: _Booking, outcome: FirstToken, now: float) -> bool:
        """Whether this is the first report of it. A later one may bring the hit."""
        receipt, cached_tokens = booking.receipt, outcome.cached_tokens
        if cached_tokens is not None and receipt.actual_cached_tokens is None:
            receipt.actual_cached_tokens = cached_tokens
            booking.replica.audit(receipt.predicted_cached_tokens, cached_tokens)
        if booking.started:
            return False
        booking.started = True
        if outcome.timed:
            receipt.first_token_seconds = now - receipt.time
        return True

    def _finish(self, booking: _Booking, outcome: Finished, now: float) -> None:
        request_id = outcome.request_id
        del self._in_flight[request_id]
        replica, receipt = booking.replica, booking.receipt
        receipt.output_tokens = outcome.output_tokens
        receipt.finish = "aborted" if outcome.aborted else "finished"
        if outcome.aborted:
            replica.load.drop(request_id, now)
        else:
            replica.load.finished(request_id, outcome.output_tokens, now)
            replica.output_lengths.observe(outcome.output_tokens)
        booking.started |= outcome.output_tokens > 0
        self._left(request_id, booking, now, outcome.events_tell)

    def lose(self, replica: Replica, now: float) -> list[str]:
        """All requests in flight on a replica are gone from it, and nobody said so:
        their ids. O(requests in flight on all, and the paths of these)."""
        if not (replica.load.waiting or replica.load.running):
            return []
        lost = [name for name, one in self._in_flight.items() if one.replica is replica]
        for request_id in lost:
            self._lose(request_id, now)
        return lost

    def _lose(self, request_id: str, now: float) -> None:
        booking = self._in_flight.pop(request_id)
        booking.receipt.finish = "lost"
        booking.replica.load.drop(request_id, now)
        booking.replica.lost_requests += 1
        self._left(request_id, booking, now, events_tell=True)

    def _left(self, request_id: str, booking: _Booking, now: float, events_tell: bool) -> None:
        """What a request leaves behind in the cache it was on."""
        replica, receipt = booking.replica, booking.receipt
        replica.tokens_in_flight -= receipt.prompt_tokens
        if self._active is not None:
            self._active.end(request_id)
        leaf = replica.expectations.leaf(request_id)
        if leaf is not None:
            self._tree.touch(leaf, replica.column)
            replica.residency.pool.touch(leaf)
        if receipt.finish == "aborted" and not booking.started:
            replica.expectations.end(request_id)
        elif events_tell and replica.trust is Trust.EXACT:
            replica.expectations.finish(request_id, now)
        else:
            replica.expectations.keep(request_id, replica.capacity_blocks, events_tell)

    def leave(self, replica: Replica) -> None:
        """A replica is gone, and the requests on it. O(requests in flight)."""
        for request_id, booking in list(self._in_flight.items()):
            if booking.replica is replica:
                del self._in_flight[request_id]
        if self._active is not None:
            self._active.forget(replica.name)
