"""The router's own metrics, beside those of the placement (`service/metrics`).

They live on prometheus_client's default registry. Gauges of backends are set when the
page is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, generate_latest

from preble_plugin.serve.backend import Backend, State


class _Made(NamedTuple):
    answers: Counter
    failures: Counter
    refused: Counter
    up: Gauge
    busy: Gauge
    in_flight: Gauge


class RouterMetrics:
    """Counts of one process. Made twice, they are the same."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._made = _made()
        self._shown: set[str] = set()
        self._answers: dict[tuple[str, int], Counter] = {}
        """Looked up once: that takes longer than counting."""

    def answered(self, backend: str, status: int) -> None:
        """A backend answered a request, which went on to its client."""
        counter = self._answers.get((backend, status))
        if counter is None:
            counter = self._answers[backend, status] = self._made.answers.labels(
                backend, str(status)
            )
        counter.inc()

    def failed(self, backend: str, cause: str) -> None:
        """A backend did not answer, or not as it should: `connect`, `disconnect`,
        `silence`, `busy` or `cut`."""
        self._made.failures.labels(backend, cause).inc()

    def refused(self, code: str) -> None:
        """The router answered by itself with an error."""
        self._made.refused.labels(code).inc()

    def page(self, backends: Sequence[Backend], in_flight: int) -> bytes:
        """All metrics of this process as Prometheus reads them."""
        names = {one.name for one in backends}
        for gone in self._shown - names:
            self._made.up.remove(gone)
            self._made.busy.remove(gone)
        self._shown = names
        for one in backends:
            self._made.up.labels(one.name).set(one.state is State.UP)
            self._made.busy.labels(one.name).set(one.in_flight)
        self._made.in_flight.set(in_flight)
        page: bytes = generate_latest()
        return page


@cache
def _made() -> _Made:
    return _Made(
        Counter("preble:router_answers", "Answers passed on.", ["backend", "status"]),
        Counter("preble:router_failures", "Requests a backend failed.", ["backend", "cause"]),
        Counter("preble:router_refused", "Requests the router refused.", ["code"]),
        Gauge("preble:backend_up", "1 where a backend takes requests.", ["backend"]),
        Gauge("preble:backend_in_flight", "Requests in flight on a backend.", ["backend"]),
        Gauge("preble:router_in_flight", "Requests in flight in the router."),
    )
