"""Receipts: why each request went where it went.

A bounded ring of the last decisions, found by the engine's id or by the id the
client knows. The oldest falls out when the ring is full.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from preble_plugin.core.request import ReplicaId
from preble_plugin.core.status import Trust


class CandidateReceipt(msgspec.Struct, omit_defaults=True):
    """One replica in one decision; costs in seconds, None where not asked for."""

    replica: ReplicaId
    hit_tokens: int
    load_seconds: float | None
    eviction_seconds: float | None
    prefill_seconds: float | None
    trust: Trust


class Receipt(msgspec.Struct, omit_defaults=True):
    """One decision and, once known, what came of it."""

    request_id: str
    external_id: str | None
    time: float
    policy: str
    branch: str
    replica: ReplicaId
    prompt_tokens: int
    predicted_cached_tokens: int
    candidates: list[CandidateReceipt]
    actual_cached_tokens: int | None = None
    first_token_seconds: float | None = None
    output_tokens: int | None = None
    finish: str | None = None
    """`finished`, `aborted`, or None while in flight."""
