"""One life of a publisher, as far as it was applied: from its batch 0 until it ends.

1. `last` is the last batch applied, `highest` the highest one known to exist:
   what lies between is missing, or held until its turn.
2. The picture is `complete` as long as nothing was lost. After a loss it is so
   again once the cache is known to be empty, or has turned over: as many blocks
   were stored as it holds.
3. Another life shows itself by numbers or times that run backwards, and surely
   by another digest of the last batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b

from preble_plugin.core.events import CacheEvent, Clear, Store
from preble_plugin.feed.actions import Patience, Position
from preble_plugin.feed.held import HeldBatches
from preble_plugin.feed.wire_form import timestamp


def digest(payload: bytes) -> bytes:
    """16 bytes that stand for a payload."""
    return blake2b(payload, digest_size=16).digest()


class Life:
    """Numbers and held batches of one life. `capacity_blocks` is the size of the
    cache where known."""

    def __init__(self, patience: Patience, capacity_blocks: int | None) -> None:
        self.held = HeldBatches(patience.held_batches, patience.held_bytes)
        self.last = -1
        self.highest = -1
        self.highest_live = -1
        self.complete = True
        self._capacity_blocks = capacity_blocks
        self._stored_since_loss = 0
        self._time = -math.inf
        self._payload: bytes | None = None
        self._digest: bytes | None = None

    def resume(self, position: Position) -> None:
        """Stand where a snapshot was taken."""
        self.last = self.highest = position.last_seq
        self.complete = position.complete
        self._digest = position.digest

    @property
    def missing(self) -> bool:
        """Whether a batch is known to exist that was not applied."""
        return self.last < self.highest

    @property
    def ready(self) -> bool:
        """Whether the next batch is held."""
        return self.last + 1 in self.held

    def runs_backwards(self, seq: int, payload: bytes) -> bool:
        """Whether a batch seems to be of another life: an old number with other
        content, or later than the last; or a new number, but earlier. O(1), for
        the last batch O(bytes)."""
        if seq == self.last:
            return self._payload is not None and payload != self._payload
        at = timestamp(payload)
        return at is not None and (at < self._time if seq > self.last else at > self._time)

    def note(self, seq: int) -> bool:
        """A batch exists; True if it shows a gap where there was none."""
        fresh_gap = not self.missing and seq > self.last
        self.highest = max(self.highest, seq)
        return fresh_gap

    def succeeds_held(self, seq: int, payload: bytes) -> bool:
        """Whether a batch is of a later life than the one held under its number."""
        held = self.held.get(seq)
        if held is None or held == payload:
            return False
        at, held_at = timestamp(payload), timestamp(held)
        return at is not None and held_at is not None and at > held_at

    def hold_live(self, seq: int, payload: bytes) -> bool:
        """A live batch has to wait; True if it shows a gap where there was none."""
        self.highest_live = max(self.highest_live, seq)
        if seq not in self.held:
            self.held.hold(seq, payload)
        return self.note(seq)

    def advance(self, seq: int, payload: bytes) -> None:
        """`seq` had its turn: it was applied, or given up."""
        self.held.take(seq)
        self.last = seq
        self.highest = max(self.highest, seq)
        self._payload, self._digest = payload, None
        self._time = timestamp(payload) or self._time

    def lose(self, until: int) -> None:
        """Give up all before `until` that was not applied. O(batches held)."""
        self.complete = False
        self._stored_since_loss = 0
        if until > self.last + 1:
            self.last = until - 1
            self._payload = self._digest = None
            self.held.drop_below(until)

    def end_at_last(self) -> None:
        """The publisher has nothing after `last`: what was seen was not of this life."""
        self.highest = self.last
        self.held.clear()

    def grow(self, events: Sequence[CacheEvent]) -> None:
        """These events follow: after a loss, they may complete the picture."""
        if self.complete:
            return
        for event in events:
            if isinstance(event, Clear):
                self.complete = True
            elif isinstance(event, Store) and event.medium == "GPU":
                self._stored_since_loss += len(event.hashes)
        if self._capacity_blocks is not None and self._stored_since_loss >= self._capacity_blocks:
            self.complete = True

    def anchor(self) -> bytes | None:
        """The digest of the last batch, where there is one. O(bytes), once."""
        if self._digest is None and self._payload is not None:
            self._digest = digest(self._payload)
        return self._digest

    def confirmed(self, payload: bytes) -> None:
        """This is the last batch, after a resume that knew its digest alone."""
        self._payload = payload
        self._time = timestamp(payload) or self._time

    def position(self) -> Position | None:
        """Where residency stands now; None before the first batch."""
        anchor = self.anchor()
        return None if anchor is None else Position(self.last, anchor, self.complete)
