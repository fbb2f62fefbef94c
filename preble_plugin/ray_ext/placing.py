"""The calls of one handle, from their placement to their end, as the scheduler is told.

1. A call is placed when Ray first asks for replicas, and anew once a replica has turned it
   down. While it waits for one that has room, Ray asks again and gets the same answer.
2. Its future says where Ray has sent it. If that is elsewhere, the scheduler is told.
3. Ray tells one end for each time that it was sent, by the replica and an id that other
   calls of the same client request may share. Ends that are due from replicas that turned it
   down are awaited, and pass.
4. A call that Ray forgets unsent is ended then. If it was never sent because Ray only asked
   where to, nothing is known of load here: from then on Ray chooses by itself.

There are no cache events: a replica is taken to hold what was placed on it, least recently
used first to go, up to its capacity. Used from the event loop of Ray's router.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

from preble_plugin.core import Finished, Placement, Request
from preble_plugin.ray_ext.asked import asked
from preble_plugin.service.interface import ReplicaSpec, Unplaced
from preble_plugin.service.local import LocalFrontend
from preble_plugin.settings import Settings

_log = logging.getLogger(__name__)
BLOCK_TOKENS: Final = 16


class Metadata(Protocol):
    """What is read of Ray's `RequestMetadata`."""

    request_id: str
    internal_request_id: str
    call_method: str
    multiplexed_model_id: str
    session_id: str


class Pending(Protocol):
    """What is read of Ray's `PendingRequest`: `future` is another one each time that the
    call is sent, and its result the replica."""

    args: list[Any]
    metadata: Metadata
    future: asyncio.Future[Any]


class _Call:
    """One call on its way. `pending` lives until Ray has sent it."""

    __slots__ = (
        "answer",
        "booked",
        "future",
        "internal_id",
        "pending",
        "refusals",
        "replica",
        "request",
        "routed",
    )

    def __init__(self, request: Request, internal_id: str, pending: weakref.ref[Pending]) -> None:
        self.request = request
        self.internal_id = internal_id
        self.pending = pending
        self.future: asyncio.Future[Any] | None = None
        self.answer: Placement | Unplaced = Unplaced("not_ready")
        self.replica: str | None = None
        self.booked: str | None = None
        """Where the scheduler has it: `replica`, or the one before where none was chosen."""
        self.routed = False
        self.refusals: Counter[str] = Counter()
        """By replica, the ends to come that say only that it was turned down."""


class Placing:
    """Places the calls of one handle. `count` is told of each answer: the rule, or why there
    is no placement. Raises `SettingsError` for an unknown policy."""

    def __init__(
        self,
        settings: Settings,
        capacity_tokens: int | None = None,
        count: Callable[[str], None] = lambda branch: None,
    ) -> None:
        self.frontend = LocalFrontend(settings)
        self._count = count
        self._shadow = settings.shadow
        self._capacity = capacity_tokens and max(capacity_tokens // BLOCK_TOKENS, 1)
        self._calls: dict[str, list[_Call]] = {}
        self._numbers = itertools.count()
        self._aside = False

    @property
    def in_flight(self) -> int:
        """Calls that have not ended."""
        return sum(map(len, self._calls.values()))

    def set_replicas(self, running: Mapping[str, int]) -> None:
        """These replicas run now, each with the calls that it takes at once. O(replicas)."""
        self.frontend.set_replicas(
            [
                ReplicaSpec(name, BLOCK_TOKENS, self._capacity, max_running=max_running)
                for name, max_running in running.items()
            ]
        )

    def choose(self, pending: Pending) -> Placement | Unplaced:
        """Where a call is to go. O(prompt) the first time, then O(1)."""
        if self._aside:
            self._count("not_sent_from_here")
            return Unplaced("not_sent_from_here")
        call = self._call(pending) or self._begin(pending)
        if call.future is not pending.future:
            if call.replica is not None:
                call.refusals[call.replica] += 1
            call.future, call.routed = pending.future, False
            pending.future.add_done_callback(partial(self._decided, call))
            call.answer = answer = self._place(call.request)
            call.replica = str(answer.replica) if isinstance(answer, Placement) else None
            call.booked = call.replica or call.booked
            self._count(answer.branch if isinstance(answer, Placement) else answer.cause)
        return call.answer

    def _place(self, request: Request) -> Placement | Unplaced:
        if self._shadow:
            return Unplaced("shadow")
        answer = self.frontend.place_now(request)
        asyncio.get_running_loop().call_soon(self.frontend.settle)
        return answer

    def routed(self, pending: Pending) -> None:
        """The replica has taken the call: its end will be told. O(1)."""
        call = self._call(pending)
        if call is not None:
            call.routed = True

    def ended(self, replica: str, internal_id: str) -> None:
        """A call that was sent to `replica` has ended, however it did. O(1)."""
        for call in self._calls.get(internal_id, ()):
            if call.refusals[replica] > 0:
                call.refusals[replica] -= 1
                return
            if call.replica == replica and call.future is not None and call.future.done():
                self._end(call)
                return

    def _call(self, pending: Pending) -> _Call | None:
        calls = self._calls.get(pending.metadata.internal_request_id, ())
        return next((one for one in calls if one.pending() is pending), None)

    def _begin(self, pending: Pending) -> _Call:
        told, hasher = pending.metadata, self.frontend.hasher
        read = asked(pending.args, told.call_method, told.multiplexed_model_id)
        tokens = read.tokens if read.tokens is not None else ()
        request = Request(
            f"{told.internal_request_id}-{next(self._numbers)}",
            hasher.prompt_keys(tokens, read.namespace) if hasher and len(tokens) else b"",
            len(tokens),
            external_id=told.request_id,
            max_output_tokens=read.max_output_tokens,
            session_id=told.session_id or None,
        )
        loop = asyncio.get_running_loop()

        def forgotten(_: object) -> None:  # in whichever thread collects garbage
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._forgotten, call)

        call = _Call(request, told.internal_request_id, weakref.ref(pending, forgotten))
        self._calls.setdefault(call.internal_id, []).append(call)
        return call

    def _decided(self, call: _Call, future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            self._end(call, aborted=True)
        elif call in self._calls.get(call.internal_id, ()):
            replica = future.result().replica_id.unique_id
            if replica != call.replica:
                call.replica = call.booked = replica
                self.frontend.dispatched(call.request, replica, self._shadow)

    def _forgotten(self, call: _Call) -> None:
        if call.routed or call not in self._calls.get(call.internal_id, ()):
            return
        if call.future is not None and not call.future.done() and not self._aside:
            self._aside = True
            _log.warning(
                "Ray asks here where to send requests, and sends them by another way (direct "
                "streaming): their ends are not known, and so no load; Ray's own choice goes on"
            )
        self._end(call)

    def _end(self, call: _Call, aborted: bool = False) -> None:
        calls = self._calls.get(call.internal_id, [])
        if call in calls:
            calls.remove(call)
            if not calls:
                del self._calls[call.internal_id]
            if call.booked is not None:
                end = Finished(call.request.request_id, 0, aborted)
                self.frontend.observe(call.booked, [end], time.monotonic())
