"""Receipts: why each request went where it went.

A bounded ring of the last decisions, found by the engine's id or by the id the
client knows. The oldest falls out when the ring is full.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from preble_plugin.core.request import ReplicaId
from preble_plugin.core.status import Trust


# NOTE: receipts hold no cycles and live long, so the collector need not walk them.
class CandidateReceipt(msgspec.Struct, omit_defaults=True, gc=False):
    """One replica in one decision; costs in seconds, None where not asked for."""

    replica: ReplicaId
    hit_tokens: int
    load_seconds: float | None
    eviction_seconds: float | None
    prefill_seconds: float | None
    trust: Trust
    in_flight: int | None = None
    """Requests it had, waiting and running."""


class WouldBe(msgspec.Struct, frozen=True, gc=False):
    """What the policy chose in shadow mode, where the engine's own dispatch acted."""

    replica: ReplicaId
    branch: str
    predicted_cached_tokens: int


class Receipt(msgspec.Struct, omit_defaults=True, gc=False):
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
    """`finished`, `aborted`, `lost` (the replica has it no more, and never said so),
    or None while in flight."""
    would_be: WouldBe | None = None
    """In shadow mode; `candidates` are priced for it."""


_Kept: TypeAlias = tuple[Receipt, Callable[[], list[CandidateReceipt]] | None]


class ReceiptRing:
    """The last `capacity` receipts; none where it is 0. Raises ValueError on a
    negative capacity."""

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise ValueError(f"receipts must be 0 or more, got {capacity}")
        self.capacity = capacity
        self._receipts: OrderedDict[str, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._receipts)

    def add(
        self, receipt: Receipt, candidates: Callable[[], list[CandidateReceipt]] | None = None
    ) -> None:
        """Keep a receipt, which may still be written to; an earlier one of the
        same request id gives way to it. `candidates`, if given, makes the
        receipt's when it is first looked at. O(1)."""
        if not self.capacity:
            return
        receipts = self._receipts
        if receipt.request_id in receipts:
            del receipts[receipt.request_id]
        elif len(receipts) >= self.capacity:
            receipts.popitem(last=False)
        receipts[receipt.request_id] = (receipt, candidates)

    def find(self, request_id: str) -> list[Receipt]:
        """Receipts of a request, oldest first; empty where none is left.

        `request_id` is the engine's id or the client's. The client's stands also
        for the children of n > 1, which share it, and for ids that begin with it
        and a dash: completions number their prompts that way. O(capacity), some
        milliseconds for 10,000: nothing is indexed for it while placing.
        """
        numbered = request_id + "-"
        found: list[Receipt] = []
        for receipt, candidates in self._receipts.values():
            if (
                receipt.request_id == request_id
                or receipt.external_id == request_id
                or (receipt.external_id or receipt.request_id).startswith(numbered)
            ):
                if candidates is not None and not receipt.candidates:
                    receipt.candidates = candidates()
                found.append(receipt)
        return found
