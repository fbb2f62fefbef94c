"""The scheduler's state as numbers, for metrics, `preble status` and tests."""

from __future__ import annotations

import enum

import msgspec

from preble_plugin.core.request import ReplicaId


class Trust(enum.StrEnum):
    """How far a replica's residency can be believed."""

    EXACT = "exact"
    """Every event since the stream's start, or since a full snapshot, was applied."""
    GAPPED = "gapped"
    """Events were lost and a replay of them is under way."""
    REBUILDING = "rebuilding"
    """What was lost cannot be had again, or a store was skipped: the picture fills as
    events come."""
    SILENT = "silent"
    """No event source, or none that ever spoke."""


class ReplicaStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """One replica now."""

    replica: ReplicaId
    trust: Trust
    resident_blocks: int
    expected_blocks: int
    capacity_blocks: int | None
    running: int
    """Requests placed here and not finished."""
    queued_prefill_seconds: float
    queued_decode_seconds: float
    placements: int
    predicted_cached_tokens: int
    actual_cached_tokens: int
    audited_requests: int
    exact_audits: int
    """Audited requests whose prediction equalled the engine's own number."""
    prefill_tokens_per_second: float
    event_lag_seconds: float = 0.0
    event_gaps: int = 0
    event_batches: int = 0
    event_errors: int = 0
    waiting_stores: int = 0
    """Stores whose parent block no event has stored yet."""
    missing_blocks: int = 0
    """Blocks that the replica has and whose store was skipped; while there are any, its
    residency is not `exact`."""
    lost_requests: int = 0
    """Requests that left the replica without our being told: it said itself that it
    has none."""


class ShadowStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was decided in shadow mode, beside what the engine's own dispatch did. The
    predictions are for the caches as that dispatch has left them."""

    requests: int = 0
    """Requests decided on and not acted on."""
    elsewhere: int = 0
    """Of these, those that the policy would have sent to another replica."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Predicted where they went."""
    would_be_cached_tokens: int = 0
    """Predicted where the policy would have sent them."""


class RecordingStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """The recording of a live server's requests."""

    path: str
    written: int = 0
    dropped: int = 0
    """Requests that came faster than they could be written."""
    failed: int = 0
    """Requests that could not be written."""
    full: bool = False
    """The file has reached its bound; nothing is recorded any more."""


class SchedulerStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """The whole scheduler now."""

    policy: str
    block_size: int
    replicas: list[ReplicaStatus]
    tree_nodes: int
    tree_blocks: int
    receipts: int
    in_flight: int
    placements: int
    skipped_events: int
    """Cache events that could not be applied, by any cause."""
    shadow: ShadowStatus | None = None
    """None where nothing is decided in shadow mode."""
    recording: RecordingStatus | None = None
    """None where requests are not recorded."""
