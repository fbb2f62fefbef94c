"""One placed request, from its placement to its end, as the scheduler is told of it.

1. It is placed by the pool's scheduler. Where its replica does not answer, it goes to the
   least busy backend that was not tried, and the scheduler is told where.
2. Its first token and its end are told once each, whatever happens: an answer, an error, a
   client that left.
3. vLLM's Rust front end leaves out what it found cached where that is nothing. So of a
   backend that has told a hit before, usage without one tells that nothing was found.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from preble_plugin.core import Finished, FirstToken, Outcome, Placement, ReplicaId, Request
from preble_plugin.serve.backend import Backend, State
from preble_plugin.serve.kinds import Kind
from preble_plugin.serve.pool import Pool
from preble_plugin.serve.reading import Reading
from preble_plugin.service.interface import Unplaced


class Journey:
    """`request` on its way through `pool`. `single` says that it has one prompt, so that
    its hit can be held against the prediction."""

    def __init__(
        self, pool: Pool, request: Request, reading: Reading, *, single: bool, told_by_events: bool
    ) -> None:
        self.reading = reading
        self._pool = pool
        self._request = request
        self._single = single
        self._told_by_events = told_by_events
        self._replica: ReplicaId | None = None
        self._tells_hits: set[Kind] = set()
        self._began = False
        self._tried: set[str] = set()

    @property
    def request_id(self) -> str:
        """The id it has here."""
        return self._request.request_id

    def next(self) -> tuple[Backend, int] | None:
        """The backend to send it to, and its rank there; None where none is left."""
        found = self._place() if not self._tried else self._elsewhere()
        if found is not None:
            self._tells_hits = found[0].tells_hits
            self._tried.add(found[0].name)
        return found

    def anywhere(self) -> None:
        """Its backend chooses the rank: its hit is no word on what was predicted."""
        self._single = False

    def started(self) -> None:
        """Its first output has come."""
        self._began = True
        self._tell([FirstToken(self._request.request_id, None)])

    def finished(self) -> None:
        """Its answer is complete."""
        reading = self.reading
        outcomes: list[Outcome] = []
        cached = self._cached_tokens() if self._single else None
        if not self._began or cached is not None:
            outcomes.append(FirstToken(self._request.request_id, cached, timed=False))
        outcomes.append(
            Finished(
                self._request.request_id,
                reading.output_tokens,
                events_tell=self._told_by_events,
            )
        )
        self._tell(outcomes)
        self._replica = None

    def dropped(self) -> None:
        """It ended without a complete answer; after `finished`, nothing."""
        if self._replica is not None:
            end = Finished(
                self._request.request_id,
                self.reading.output_tokens,
                aborted=True,
                events_tell=self._told_by_events,
            )
            self._tell([end])
            self._replica = None

    def _cached_tokens(self) -> int | None:
        reading, cached = self.reading, self.reading.cached_tokens
        if cached is not None:
            self._tells_hits.add(reading.kind)
        elif reading.has_usage and reading.kind in self._tells_hits:
            return 0
        return cached

    def _place(self) -> tuple[Backend, int] | None:
        pool, began = self._pool, time.perf_counter()
        answer = pool.frontend.place_now(self._request)
        if isinstance(answer, Placement):
            pool.metrics.placed(answer, self._request.prompt_tokens, time.perf_counter() - began)
            self._replica = answer.replica
            found = pool.where(answer.replica)
            if found is not None:
                return found
            answer = Unplaced("no_replica")
        pool.metrics.fallback(answer)
        return self._elsewhere()

    def _elsewhere(self) -> tuple[Backend, int] | None:
        found = least_busy(self._pool.backends, self._tried)
        if found is None:
            self.dropped()
            return None
        rank = found.in_flight % found.ranks
        self._replica = found.replica(rank)
        self._pool.frontend.dispatched(self._request, self._replica)
        return found, rank

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        if self._replica is not None:
            self._pool.frontend.observe(self._replica, outcomes, time.monotonic())
            self._pool.metrics.observed(self._replica, outcomes)


def least_busy(backends: Sequence[Backend], tried: set[str]) -> Backend | None:
    """Of the backends that are up and not tried, the one with the fewest requests a rank."""
    left = [one for one in backends if one.state is State.UP and one.name not in tried]
    return min(left, key=lambda one: (one.in_flight / one.ranks, one.name), default=None)
