"""The paper's window H: what was assigned to one replica lately, done or not.

1. H is cut into 60 buckets; work is added to the newest and leaves with its
   bucket, so memory does not grow with traffic and a request that outlives the
   window is nothing special.
2. Buckets hold integers, and the total of all but the newest is kept beside them:
   nothing drifts.
3. L of PREBLE 3.2 is the prefill of what missed, plus for each request the
   decode of the mean output length seen in H.
"""

from __future__ import annotations

from typing import Final

from preble_plugin.core.time_model import TimeModel

_BUCKETS: Final = 60
_REQUESTS, _NEW, _CONTEXT, _NEW_TIMES_CONTEXT, _EXPECTED, _FINISHED, _OUTPUT = range(7)


class WorkWindow:
    """Work assigned within the last `seconds`. Every method is O(1) amortised."""

    __slots__ = ("_buckets", "_closed", "_newest", "_per_second", "_slot")

    def __init__(self, seconds: float) -> None:
        self._per_second = _BUCKETS / seconds
        self._slot: int | None = None
        self._buckets = [[0] * 7 for _ in range(_BUCKETS)]
        self._newest = self._buckets[0]
        self._closed = [0] * 7
        """Total of all but the newest."""

    def assigned(
        self, new_tokens: int, prompt_tokens: int, expected_output_tokens: int, now: float
    ) -> None:
        """A request came that misses `new_tokens` of `prompt_tokens`."""
        bucket = self._bucket(now)
        bucket[_REQUESTS] += 1
        bucket[_NEW] += new_tokens
        bucket[_CONTEXT] += prompt_tokens
        bucket[_NEW_TIMES_CONTEXT] += new_tokens * prompt_tokens
        bucket[_EXPECTED] += expected_output_tokens

    def finished(self, output_tokens: int, now: float) -> None:
        """A request produced `output_tokens`, whenever it was assigned."""
        bucket = self._bucket(now)
        bucket[_FINISHED] += 1
        bucket[_OUTPUT] += output_tokens

    def requests(self, now: float) -> int:
        """Requests assigned in the window."""
        return self._bucket(now)[_REQUESTS] + self._closed[_REQUESTS]

    def mean_output_tokens(self, now: float) -> float:
        """Mean output length seen in the window; before any was seen, the mean
        that was expected of those assigned; 0 for an empty window."""
        total = self._total(now)
        if total[_FINISHED]:
            return total[_OUTPUT] / total[_FINISHED]
        return total[_EXPECTED] / total[_REQUESTS] if total[_REQUESTS] else 0.0

    def prefill_seconds(self, model: TimeModel, now: float) -> float:
        """Prefill of what missed."""
        return model.queue_seconds(*self._total(now)[: _NEW_TIMES_CONTEXT + 1])

    def decode_seconds(self, model: TimeModel, batch: int, now: float) -> float:
        """Decode of the mean output length, once for each request."""
        output = self.mean_output_tokens(now)
        total = self._total(now)
        requests = total[_REQUESTS]
        if not requests:
            return 0.0
        return requests * model.decode_seconds(output, total[_CONTEXT] / requests, batch)

    def _total(self, now: float) -> list[int]:
        return [one + other for one, other in zip(self._bucket(now), self._closed, strict=True)]

    def _bucket(self, now: float) -> list[int]:
        """The newest bucket; a time before it counts as its own."""
        slot = int(now * self._per_second)
        if slot == self._slot:
            return self._newest
        if self._slot is None:
            self._slot = slot
            self._newest = self._buckets[slot % _BUCKETS]
        elif slot > self._slot:
            closed = self._closed
            for field, count in enumerate(self._newest):
                closed[field] += count
            for stale in range(max(self._slot + 1, slot - _BUCKETS + 1), slot + 1):
                counts = self._buckets[stale % _BUCKETS]
                if any(counts):
                    for field, count in enumerate(counts):
                        closed[field] -= count
                        counts[field] = 0
            self._slot = slot
            self._newest = self._buckets[slot % _BUCKETS]
        return self._newest
