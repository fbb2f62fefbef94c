"""What a stream counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from preble_plugin.core.status import Trust
from preble_plugin.feed.actions import StreamStatus


class Tally:
    """Counters of one stream; they only grow, but for `lag_seconds`."""

    def __init__(self) -> None:
        self.batches = self.gaps = self.losses = self.duplicates = 0
        self.restarts = self.replays = 0
        self.lag_seconds = 0.0
        self._skipped: Counter[str] = Counter()

    def skip(self, causes: Mapping[str, int]) -> None:
        """Count what could not be read, by cause."""
        if causes:
            self._skipped.update(causes)

    def status(self, trust: Trust, last_seq: int) -> StreamStatus:
        """All of it."""
        return StreamStatus(
            trust=trust,
            last_seq=last_seq,
            lag_seconds=self.lag_seconds,
            batches=self.batches,
            gaps=self.gaps,
            losses=self.losses,
            duplicates=self.duplicates,
            restarts=self.restarts,
            replays=self.replays,
            errors=self._skipped.total(),
            skipped=dict(self._skipped),
        )
