"""Placement by the scheduler process: a front end's side.

1. The link is down, `greeting` (said `Hello`, no answer yet) or up. It goes
   down when the socket's monitor says so, or when the scheduler says nothing
   for 2 s; it is greeted whenever it comes back.
2. Only on an up link is a placement asked for. It waits for the answer at most
   the settings' deadline; what comes later is withdrawn. After a deadline missed
   in silence no other request waits until the scheduler has said something.
3. The table of requests in flight is the front end's own. On each greeting it
   is told over again, so that a restarted scheduler has the load right.
4. Nothing raises for a fault of the scheduler; what cannot be sent is counted,
   and the table told over again at the next beat.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from preble_plugin.core.block_keys import BlockHasher
from preble_plugin.core.request import (
    Finished,
    Outcome,
    Placement,
    ReplicaId,
    Request,
)
from preble_plugin.core.status import SchedulerStatus
from preble_plugin.service import messages
from preble_plugin.service.dealer import Dealer
from preble_plugin.service.interface import ReplicaSpec, Unplaced
from preble_plugin.service.messages import FromFrontEnd, FromScheduler
from preble_plugin.settings import Settings

_log = logging.getLogger(__name__)
_DOWN_AFTER_SECONDS: Final = 2.0
_UNANSWERED_BEATS: Final = 8


class Link(enum.Enum):
    """How it stands with the scheduler process."""

    DOWN = "down"
    GREETING = "greeting"
    UP = "up"


class _InFlight:
    __slots__ = ("replica", "request", "started")

    def __init__(self, request: Request, replica: ReplicaId) -> None:
        self.request = request
        self.replica = replica
        self.started = False


class RemoteFrontend:
    """The `Frontend` of a process that shares the scheduler at `address`
    (a ZMQ address on this machine). Used from one event loop."""

    def __init__(self, address: str, settings: Settings) -> None:
        self.address = address
        self.link = Link.DOWN
        self.instance: bytes | None = None
        """The scheduler process that last welcomed this front end."""
        self.dropped = 0
        """Messages that could not be delivered."""
        self._deadline = settings.placement_deadline_seconds
        self._hasher: BlockHasher | None = None
        self._replicas: list[ReplicaSpec] | None = None
        self._in_flight: dict[str, _InFlight] = {}
        self._waiting: dict[int, asyncio.Future[Placement | Unplaced]] = {}
        self._serial = 0
        self._greeting = 0
        self._greeted = 0.0
        self._heard = 0.0
        self._unanswered_beats = 0
        self._silent_since_asked = False
        self._tell_over_again = False
        self._status: SchedulerStatus | None = None
        self._refusal: str | None = None
        self._dealer: Dealer | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def hasher(self) -> BlockHasher | None:
        """Hashes prompts for `Request.keys`; None until the scheduler's welcome."""
        return self._hasher

    def set_replicas(self, replicas: Sequence[ReplicaSpec]) -> None:
        """State the replicas there are now."""
        self._replicas = list(replicas)
        if self.link is Link.UP:
            self._send(messages.Replicas(self._replicas))
        elif self.link is Link.GREETING:
            self._greet()

    async def place(self, request: Request) -> Placement | Unplaced:
        """Ask for a placement; one message each way."""
        if self.link is not Link.UP or self._silent_since_asked:
            return Unplaced("not_ready" if self.instance is None else "scheduler_down")
        self._serial = serial = self._serial + 1
        if not self._send(messages.Place(serial, request)):
            return Unplaced("scheduler_down")
        loop = asyncio.get_running_loop()
        self._waiting[serial] = future = loop.create_future()
        deadline = loop.call_later(self._deadline, self._expire, serial, time.monotonic())
        try:
            answer: Placement | Unplaced = await future
        except asyncio.CancelledError:
            self._send(messages.Withdrawn(request.request_id))
            raise
        finally:
            deadline.cancel()
            self._waiting.pop(serial, None)
        if isinstance(answer, Placement):
            self._in_flight[request.request_id] = _InFlight(request, answer.replica)
        elif answer.cause == "deadline":
            self._send(messages.Withdrawn(request.request_id))
        return answer

    def dispatched(self, request: Request, replica: ReplicaId, shadow: bool = False) -> None:
        """Account for a request that the engine's own dispatch sent to `replica`."""
        self._in_flight[request.request_id] = _InFlight(request, replica)
        self._tell(messages.Dispatched(request, replica, shadow=shadow))

    def observe(self, replica: ReplicaId, outcomes: Sequence[Outcome], now: float) -> None:
        """Pass on what one engine output message said."""
        for outcome in outcomes:
            known = self._in_flight.get(outcome.request_id)
            if known is None or known.replica != replica:
                continue
            if type(outcome) is Finished:
                del self._in_flight[outcome.request_id]
            else:
                known.started = True
        self._tell(messages.Observed(replica, list(outcomes), now))

    def status(self) -> SchedulerStatus | None:
        """The scheduler's state, or None while it is not up."""
        return self._status if self.link is Link.UP else None

    async def start(self) -> None:
        """Connect; idempotent. Does not wait for the scheduler."""
        if self._dealer is not None:
            return
        self._dealer = Dealer(self.address, self._receive, self._connection_changed)
        self._timer = asyncio.get_running_loop().call_later(messages.BEAT_SECONDS, self._beat)

    async def close(self) -> None:
        """Say goodbye and release what is held; idempotent."""
        if self._dealer is None:
            return
        if self.link is not Link.DOWN:
            self._send(messages.Goodbye())
        self._went_down()
        if self._timer is not None:
            self._timer.cancel()
        dealer, self._dealer = self._dealer, None
        await dealer.close()

    def _receive(self, payload: bytes) -> None:
        try:
            message: FromScheduler = messages.scheduler_decoder.decode(payload)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self.dropped += 1
            return
        self._heard = time.monotonic()
        self._unanswered_beats = 0
        self._silent_since_asked = False
        match message:
            case messages.Placed(serial, placement):
                self._answer(serial, placement)
            case messages.NotPlaced(serial, cause):
                self._answer(serial, Unplaced(cause))
            case messages.State(status):
                self._status = status
            case messages.Welcome():
                self._welcomed(message)
            case messages.Refused(_, reason):
                self._refused(reason)
            case messages.Stranger() if self.link is not Link.GREETING:
                self._greet()
            case _ if self.link is Link.DOWN:
                self._greet()

    def _connection_changed(self, connected: bool) -> None:
        if connected:
            self._heard = time.monotonic()
            self._greet()
        else:
            if self.link is Link.UP:
                _log.warning("the scheduler process is gone; requests take the engine's dispatch")
            self._went_down()

    def _greet(self) -> None:
        """Say hello and tell the whole table of requests in flight."""
        self._went_down()
        self.link = Link.GREETING
        if not self._replicas:
            return
        self._tell_over_again = False
        self._greeting += 1
        self._greeted = time.monotonic()
        self._send(messages.Hello(self._greeting, self._replicas))
        for known in self._in_flight.values():
            self._send(messages.Dispatched(known.request, known.replica, known.started))

    def _welcomed(self, welcome: messages.Welcome) -> None:
        if welcome.greeting != self._greeting:
            return
        self._hasher = BlockHasher(welcome.block_size, welcome.seed, welcome.lookahead_tokens)
        if self.instance not in (None, welcome.instance):
            _log.info("the scheduler process is back; requests are placed again")
        self.instance = welcome.instance
        self._refusal = None
        self.link = Link.UP

    def _refused(self, reason: str) -> None:
        if reason != self._refusal:
            self._refusal = reason
            _log.error("the scheduler refuses this front end's replicas: %s", reason)

    def _went_down(self) -> None:
        self.link = Link.DOWN
        self._silent_since_asked = False
        self._status = None
        for future in self._waiting.values():
            if not future.done():
                future.set_result(Unplaced("scheduler_down"))

    def _beat(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(messages.BEAT_SECONDS, self._beat)
        now = time.monotonic()
        if self.link is not Link.DOWN and now - self._heard > _DOWN_AFTER_SECONDS:
            self._went_down()
        unanswered = self.link is Link.GREETING and now - self._greeted > _DOWN_AFTER_SECONDS
        if unanswered or (self.link is Link.UP and self._tell_over_again):
            self._greet()
        elif self._unanswered_beats < _UNANSWERED_BEATS:
            self._unanswered_beats += 1
            self._send(messages.Beat())

    def _expire(self, serial: int, asked: float) -> None:
        if self._dealer is not None:
            self._dealer.read()  # the answer may have come while this loop was busy
        future = self._waiting.get(serial)
        if future is not None and not future.done():
            self._silent_since_asked = self._heard < asked
            future.set_result(Unplaced("deadline"))

    def _answer(self, serial: int, answer: Placement | Unplaced) -> None:
        future = self._waiting.get(serial)
        if future is not None and not future.done():
            future.set_result(answer)

    def _tell(self, message: FromFrontEnd) -> None:
        if self.link is Link.DOWN or not self._replicas:
            self.dropped += 1
        else:
            self._send(message)

    def _send(self, message: FromFrontEnd) -> bool:
        if self._dealer is not None and self._dealer.send(messages.encoder.encode(message)):
            return True
        self.dropped += 1
        self._tell_over_again = True
        return False
