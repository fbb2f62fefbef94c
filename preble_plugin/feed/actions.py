"""What a stream asks of whoever drives it, in the order it is to be done.

`Apply` and `Reset` change a replica's residency, `TrustChanged` says how far to
believe it, `AskReplay` has to go to the publisher.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from preble_plugin.core.events import CacheEvent
from preble_plugin.core.status import Trust


class Apply(msgspec.Struct, frozen=True):
    """Apply these events; they follow all that were applied before."""

    events: list[CacheEvent]


class Reset(msgspec.Struct, frozen=True):
    """Forget everything believed of this replica's cache."""


class AskReplay(msgspec.Struct, frozen=True):
    """Ask the publisher for its batches from this sequence number on, over a
    connection of its own; an earlier request is given up."""

    from_seq: int


class TrustChanged(msgspec.Struct, frozen=True):
    """From here on, believe the replica's residency this far."""

    trust: Trust


Action: TypeAlias = Apply | Reset | AskReplay | TrustChanged


class Patience(msgspec.Struct, frozen=True):
    """How long a stream waits and how much it holds."""

    replay_seconds: float = 2.0
    """Without a first word from a replay, it is given up and asked for again."""
    pause_seconds: float = 0.5
    """The same for the next word: a publisher sends a replay in one go."""
    tries: int = 3
    """Replays in a row that bring nothing before what is missing counts as lost."""
    probe_seconds: float = 0.5
    """Quiet after which the stream asks whether it has all there is; doubled with
    each answer that there is nothing new, up to `longest_probe_seconds`."""
    longest_probe_seconds: float = 10.0
    held_batches: int = 4096
    held_bytes: int = 64 << 20


class StreamStatus(msgspec.Struct, frozen=True):
    """One stream in numbers; all but `trust`, `lag_seconds` and `last_seq` only grow."""

    trust: Trust
    last_seq: int
    """Sequence number of the last batch applied; -1 before the first."""
    lag_seconds: float
    """Age of the last live batch on arrival, by the publisher's clock and ours."""
    batches: int
    """Batches applied."""
    gaps: int
    """Times that batches were found missing."""
    losses: int
    """Times that missing batches could not be had again."""
    duplicates: int
    restarts: int
    """Publishers that began anew, with an empty cache."""
    replays: int
    """Replays asked for, probes included."""
    errors: int
    """Payloads and messages that could not be read, and events skipped."""
    skipped: dict[str, int]
    """The same by cause."""


class Position(msgspec.Struct, frozen=True, array_like=True):
    """Where a stream stood when a snapshot of its residency was taken."""

    last_seq: int
    digest: bytes
    """Of the last batch's payload: tells one life of a publisher from the next."""
    complete: bool
    """Whether nothing was lost before."""
