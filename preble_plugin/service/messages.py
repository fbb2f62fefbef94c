"""What front ends and the scheduler process say to each other.

1. A front end says `Hello` with its replicas when it connects, and then
   `Dispatched` for each request it has in flight. A `Hello` starts it anew:
   what the scheduler knew of its requests is forgotten.
2. The scheduler answers `Welcome` with what hashing needs, or `Refused`.
3. `Place` is answered by `Placed` or `NotPlaced` with the same serial. All else
   is sent without an answer, and taken in order.
4. `Beat` is answered by `Beat`. Who has said nothing for 10 s is forgotten, and
   told to introduce itself again (`Stranger`) when it speaks.

One ZMQ message is one of these in msgpack. The same package is at both ends, so
that there are no versions; what does not decode is counted and dropped.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from preble_plugin.core.request import Outcome, Placement, ReplicaId, Request
from preble_plugin.core.status import SchedulerStatus
from preble_plugin.service.interface import ReplicaSpec

BEAT_SECONDS: Final = 0.5
"""How often a front end says that it lives."""
SILENCE_SECONDS: Final = 10.0
"""After how long without a word a front end's requests are dropped."""
STATUS_SECONDS: Final = 1.0
"""How often the scheduler's state is sent to each front end."""
LARGEST_MESSAGE: Final = 64 << 20
"""Bytes; a longer message ends its sender's connection."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A front end introduces itself: it has these replicas, and nothing yet in flight."""

    greeting: int
    """Numbers a front end's greetings, so that it knows which is answered."""
    replicas: list[ReplicaSpec]


class Replicas(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A front end's replicas are now these."""

    replicas: list[ReplicaSpec]


class Place(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Place this request."""

    serial: int
    request: Request


class Withdrawn(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A placement asked for comes too late: the request did not go there."""

    request_id: str


class Dispatched(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """A request went to `replica` by another's decision, or before a restart."""

    request: Request
    replica: ReplicaId
    started: bool = False
    """It has produced its first token already."""
    shadow: bool = False
    """What the policy would have chosen is to be kept."""


class Observed(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """What one engine output message said, with its time (seconds, monotonic)."""

    replica: ReplicaId
    outcomes: list[Outcome]
    time: float


class Beat(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """I live."""


class Goodbye(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """A front end ends; its requests with it."""


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """A front end is known now and may ask for placements."""

    greeting: int
    instance: bytes
    """Drawn at random by each scheduler process: a new one is a restart."""
    seed: bytes
    block_size: int
    lookahead_tokens: int


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """A front end's replicas cannot be taken; in words. After a `Hello` it stays
    a stranger (`greeting` is the hello's), else what it said before stands."""

    greeting: int
    reason: str


class Stranger(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """The scheduler does not know who speaks."""


class Placed(msgspec.Struct, frozen=True, array_like=True, tag=23):
    """The answer to a `Place`."""

    serial: int
    placement: Placement


class NotPlaced(msgspec.Struct, frozen=True, array_like=True, tag=24):
    """The answer to a `Place` that has no placement."""

    serial: int
    cause: str


class State(msgspec.Struct, frozen=True, array_like=True, tag=25):
    """The scheduler's state, sent unasked."""

    status: SchedulerStatus


FromFrontEnd: TypeAlias = (
    Hello | Replicas | Place | Withdrawn | Dispatched | Observed | Beat | Goodbye
)
FromScheduler: TypeAlias = Welcome | Refused | Stranger | Placed | NotPlaced | State | Beat

encoder = msgspec.msgpack.Encoder()
front_end_decoder: msgspec.msgpack.Decoder[FromFrontEnd] = msgspec.msgpack.Decoder(FromFrontEnd)
scheduler_decoder: msgspec.msgpack.Decoder[FromScheduler] = msgspec.msgpack.Decoder(FromScheduler)
