"""Receipts: why each request went where it went.

A bounded ring of the last decisions, found by the engine's id or by the id the
client knows. The oldest falls out when the ring is full.

A receipt keeps figures and no object of the scheduler: less than 1 KB, whatever the
number of replicas. It lists the candidates that the policy looked at and those with the
longest hit, `LISTED` at most; in a fleet of so many replicas, all of which the hit is known.
"""

from __future__ import annotations

from collections import OrderedDict
from math import isnan, nan
from struct import Struct
from typing import Final, NamedTuple, TypeAlias

import msgspec

from preble_plugin.core.request import ReplicaId
from preble_plugin.core.status import Trust

LISTED: Final = 8
"""Candidates that a receipt lists at most."""
DIFFERENT_HITS: Final = 4
"""Different hits that a receipt keeps at most; of more, it keeps the longest."""


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
    candidates: tuple[CandidateReceipt, ...] = ()
    """In order of their slots."""
    actual_cached_tokens: int | None = None
    first_token_seconds: float | None = None
    output_tokens: int | None = None
    finish: str | None = None
    """`finished`, `aborted`, `lost` (the replica has it no more, and never said so),
    or None while in flight."""
    would_be: WouldBe | None = None
    """In shadow mode; `candidates` are priced for it."""
    unlisted_replicas: int = 0
    """Replicas that are not among `candidates`."""


class Roster(NamedTuple):
    """The replicas of one moment, in order of their slots. All receipts of that moment
    share it."""

    names: tuple[ReplicaId, ...]
    trusts: tuple[Trust, ...]
    columns: tuple[int, ...]


LookedAt: TypeAlias = tuple[int, int, float, float, float, int]
"""A candidate that was looked at: its column, hit in tokens, L, M and P in seconds
(`NOT_ASKED` where the policy did not), and requests in flight."""
LOOKED_AT: Final = Struct("<iqfffi")
"""One in 28 bytes."""
NOT_ASKED: Final = nan


class Figures(msgspec.Struct, frozen=True, gc=False):
    """What a receipt keeps of its candidates."""

    roster: Roster
    hits: tuple[int, ...]
    """Masks of columns, each followed by the tokens of a hit that they have."""
    every_hit: bool
    """Whether these are all; else it is the longest."""
    looked_at: LookedAt | bytes
    """Of those looked at, `LISTED` at most: the only one, or `LOOKED_AT` for each."""

    def candidates(self) -> tuple[CandidateReceipt, ...]:
        """In order of their slots. O(replicas x hits)."""
        names, trusts, columns = self.roster
        kept = self.looked_at
        rows = LOOKED_AT.iter_unpack(kept) if isinstance(kept, bytes) else [kept]
        looked_at = {column: row for column, *row in rows}
        room = LISTED - len(looked_at)
        whole = self.every_hit and len(names) <= LISTED
        found = []
        for name, trust, column in zip(names, trusts, columns, strict=True):
            if column in looked_at:
                hit, *costs, in_flight = looked_at[column]
                load, eviction, prefill = (None if isnan(cost) else cost for cost in costs)
                found.append(CandidateReceipt(name, hit, load, eviction, prefill, trust, in_flight))
            elif room and ((hit := self._hit(column)) or whole):
                room -= 1
                found.append(CandidateReceipt(name, hit, None, None, None, trust))
        return tuple(found)

    def _hit(self, column: int) -> int:
        masks = zip(self.hits[::2], self.hits[1::2], strict=True)
        return next((tokens for mask, tokens in masks if mask >> column & 1), 0)


_Kept: TypeAlias = tuple[Receipt, Figures | None]


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

    def add(self, receipt: Receipt, figures: Figures | None = None) -> None:
        """Keep a receipt, which may still be written to; an earlier one of the
        same request id gives way to it. `figures`, if given, stand for its
        candidates. O(1)."""
        if not self.capacity:
            return
        receipts = self._receipts
        if receipt.request_id in receipts:
            del receipts[receipt.request_id]
        elif len(receipts) >= self.capacity:
            receipts.popitem(last=False)
        receipts[receipt.request_id] = (receipt, figures)

    def find(self, request_id: str) -> list[Receipt]:
        """Receipts of a request as they stand, oldest first; empty where none is left.

        `request_id` is the engine's id or the client's. The client's stands also
        for the children of n > 1, which share it, and for ids that begin with it
        and a dash: completions number their prompts that way. O(capacity), some
        milliseconds for 10,000: nothing is indexed for it while placing.
        """
        numbered = request_id + "-"
        found: list[Receipt] = []
        for receipt, figures in self._receipts.values():
            if (
                receipt.request_id == request_id
                or receipt.external_id == request_id
                or (receipt.external_id or receipt.request_id).startswith(numbered)
            ):
                candidates, unlisted = receipt.candidates, receipt.unlisted_replicas
                if figures is not None:
                    candidates = figures.candidates()
                    unlisted = len(figures.roster.names) - len(candidates)
                found.append(
                    msgspec.structs.replace(
                        receipt, candidates=candidates, unlisted_replicas=unlisted
                    )
                )
        return found
