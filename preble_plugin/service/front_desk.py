"""The scheduler process's side of the talk with its front ends, without a socket.

1. `hear` takes one message of one front end and gives the answers to it.
2. Each front end has its replicas and its requests in flight. The scheduler's
   replicas are those of all front ends together; the last word on a replica
   counts. With no front end left the replicas stay: engines outlive those who
   speak for them, and what is known of their caches is worth keeping.
3. A front end that says goodbye, that falls silent, that introduces itself anew
   or that does not read what it is sent has its requests dropped from the load.
4. Nothing that a front end sends raises: what cannot be read is counted, a
   fault in our own work is counted, logged once, and answered with `error`.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from preble_plugin.core.request import Finished, ReplicaId, Request
from preble_plugin.service import messages
from preble_plugin.service.interface import ReplicaSpec, Unplaced
from preble_plugin.service.messages import FromFrontEnd, FromScheduler
from preble_plugin.service.scheduler_host import ReplicaConflictError, SchedulerHost

_log = logging.getLogger(__name__)
_NOTHING: Final[tuple[FromScheduler, ...]] = ()


class _FrontEnd:
    """What is known of one front end."""

    __slots__ = ("heard", "in_flight", "replicas")

    def __init__(self, now: float) -> None:
        self.heard = now
        self.replicas: list[ReplicaSpec] = []
        self.in_flight: dict[str, ReplicaId] = {}


class FrontDesk:
    """Front ends by their name on the socket (bytes they chose at random)."""

    def __init__(self, host: SchedulerHost, instance: bytes) -> None:
        self.host = host
        self.instance = instance
        self.bad_messages = 0
        self.errors = 0
        self._front_ends: dict[bytes, _FrontEnd] = {}
        self._told: set[str] = set()
        self._swept: float | None = None

    @property
    def names(self) -> list[bytes]:
        """The front ends there are."""
        return list(self._front_ends)

    def hear(self, name: bytes, payload: bytes, now: float) -> tuple[FromScheduler, ...]:
        """Take one message; the answers to its sender. Never raises."""
        try:
            message = messages.front_end_decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
            self.bad_messages += 1
            return _NOTHING
        try:
            return self._take(name, message, now)
        except Exception as error:
            self._failed(type(message).__name__, error)
            if isinstance(message, messages.Place):
                return (messages.NotPlaced(message.serial, "error"),)
            return _NOTHING

    def settle(self) -> None:
        """Do what is left to do once the answers are sent. Never raises."""
        try:
            self.host.settle()
        except Exception as error:
            self._failed("settle", error)

    def drop(self, name: bytes) -> None:
        """Forget a front end and what it has in flight."""
        if front_end := self._front_ends.pop(name, None):
            self._release(front_end)
            self._state_replicas()

    def sweep(self, now: float) -> list[bytes]:
        """Drop those who fell silent, and name them. Call it about each second.

        If the calls themselves stood still, the scheduler slept and not its
        front ends: they are all taken as just heard.
        """
        slept = self._swept is not None and now - self._swept > messages.SILENCE_SECONDS / 2
        self._swept = now
        if slept:
            for front_end in self._front_ends.values():
                front_end.heard = now
        silent = [
            name
            for name, front_end in self._front_ends.items()
            if now - front_end.heard > messages.SILENCE_SECONDS
        ]
        for name in silent:
            self.drop(name)
        return silent

    def _take(self, name: bytes, message: FromFrontEnd, now: float) -> tuple[FromScheduler, ...]:
        if isinstance(message, messages.Hello):
            return self._welcome(name, message, now)
        front_end = self._front_ends.get(name)
        if front_end is None:
            return self._to_stranger(message)
        front_end.heard = now
        match message:
            case messages.Place(serial, request):
                return (self._place(front_end, serial, request),)
            case messages.Observed(replica, outcomes, time):
                in_flight = front_end.in_flight
                for outcome in outcomes:
                    request_id = outcome.request_id
                    if type(outcome) is Finished and in_flight.get(request_id) == replica:
                        del in_flight[request_id]
                self.host.observe(replica, outcomes, time)
            case messages.Dispatched(request, replica, started, shadow):
                self._withdraw(front_end, request.request_id)
                front_end.in_flight[request.request_id] = replica
                self.host.dispatched(request, replica, started, shadow)
            case messages.Withdrawn(request_id):
                self._withdraw(front_end, request_id)
            case messages.Beat():
                return (message,)
            case messages.Replicas(replicas):
                if refused := self._restate(front_end, replicas):
                    return (messages.Refused(0, refused),)
            case messages.Goodbye():
                self.drop(name)
        return _NOTHING

    def _failed(self, what: str, error: Exception) -> None:
        """Called where `error` is handled."""
        self.errors += 1
        kind = f"{what}: {type(error).__name__}"
        if kind not in self._told:
            self._told.add(kind)
            _log.exception("scheduling failed on %s; counted from here on", kind)

    def _to_stranger(self, message: FromFrontEnd) -> tuple[FromScheduler, ...]:
        if isinstance(message, messages.Goodbye):
            return _NOTHING
        if isinstance(message, messages.Place):
            return messages.NotPlaced(message.serial, "scheduler_down"), messages.Stranger()
        return (messages.Stranger(),)

    def _welcome(self, name: bytes, hello: messages.Hello, now: float) -> tuple[FromScheduler, ...]:
        if known := self._front_ends.pop(name, None):
            self._release(known)
        front_end = _FrontEnd(now)
        self._front_ends[name] = front_end
        refused = self._restate(front_end, hello.replicas)
        hasher = self.host.hasher
        if refused is not None or hasher is None:
            self.drop(name)
            reason = refused or "it has no replicas; state them with set_replicas"
            return (messages.Refused(hello.greeting, reason),)
        return (
            messages.Welcome(
                hello.greeting,
                self.instance,
                hasher.seed,
                hasher.block_size,
                hasher.lookahead_tokens,
            ),
        )

    def _restate(self, front_end: _FrontEnd, replicas: list[ReplicaSpec]) -> str | None:
        """Take a front end's replicas; why not, if they cannot be taken."""
        before, front_end.replicas = front_end.replicas, replicas
        try:
            self._state_replicas(last=front_end)
        except ReplicaConflictError as error:
            front_end.replicas = before
            return str(error)
        return None

    def _state_replicas(self, last: _FrontEnd | None = None) -> None:
        union: dict[ReplicaId, ReplicaSpec] = {}
        for front_end in [*self._front_ends.values(), *([last] if last else [])]:
            union.update((spec.replica, spec) for spec in front_end.replicas)
        if union or self._front_ends:
            self.host.set_replicas(list(union.values()))

    def _place(self, front_end: _FrontEnd, serial: int, request: Request) -> FromScheduler:
        answer = self.host.place(request)
        if isinstance(answer, Unplaced):
            return messages.NotPlaced(serial, answer.cause)
        front_end.in_flight[request.request_id] = answer.replica
        return messages.Placed(serial, answer)

    def _withdraw(self, front_end: _FrontEnd, request_id: str) -> None:
        if (replica := front_end.in_flight.pop(request_id, None)) is not None:
            self.host.withdraw(request_id, replica)

    def _release(self, front_end: _FrontEnd) -> None:
        for request_id in list(front_end.in_flight):
            self._withdraw(front_end, request_id)
