"""Batches that came too early: kept by sequence number, bounded, until their turn."""

from __future__ import annotations


class HeldBatches:
    """At most `max_batches` payloads of `max_bytes` together. All O(1) but
    `lowest` and `drop_below`, which look at every batch held."""

    def __init__(self, max_batches: int, max_bytes: int) -> None:
        self._max_batches = max_batches
        self._max_bytes = max_bytes
        self._payloads: dict[int, bytes] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._payloads)

    def __contains__(self, seq: int) -> bool:
        return seq in self._payloads

    def hold(self, seq: int, payload: bytes) -> None:
        """Keep a batch. One that finds no room is dropped: the publisher has it still."""
        self.take(seq)
        room = len(self._payloads) < self._max_batches
        if room and self._bytes + len(payload) <= self._max_bytes:
            self._payloads[seq] = payload
            self._bytes += len(payload)

    def get(self, seq: int) -> bytes | None:
        """Look at a batch; None where it is not held."""
        return self._payloads.get(seq)

    def take(self, seq: int) -> bytes | None:
        """Give a batch out; None where it is not held."""
        payload = self._payloads.pop(seq, None)
        if payload is not None:
            self._bytes -= len(payload)
        return payload

    def lowest(self) -> int | None:
        """The first sequence number held."""
        return min(self._payloads, default=None)

    def drop_below(self, seq: int) -> None:
        """Drop what has had its turn."""
        for held in [held for held in self._payloads if held < seq]:
            self.take(held)

    def clear(self) -> None:
        """Drop all."""
        self._payloads.clear()
        self._bytes = 0
