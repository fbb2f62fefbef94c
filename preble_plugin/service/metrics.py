"""Prometheus metrics of the placement, beside the engine's own.

1. They live on prometheus_client's default registry under `preble:...`, as the
   engine's do, and so appear on its `/metrics`. prometheus_client is the
   engine's: it is imported when metrics are first made, and never required.
2. Every front-end process counts what it did itself. In multiprocess mode
   (`PROMETHEUS_MULTIPROC_DIR`) counters and histograms add up over processes.
3. Gauges show the scheduler's state, the same to all front ends: the most recent
   value wins (vLLM: v1/metrics/loggers.py, `multiprocess_mode="mostrecent"`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from preble_plugin.core.request import FirstToken, Outcome, Placement, ReplicaId
from preble_plugin.core.status import SchedulerStatus, ShadowStatus, Trust
from preble_plugin.service.interface import Unplaced

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram

_MULTIPROCESS: Final = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS_BUCKETS: Final = (
    *(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4),
    *(1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1),
)


class PlacementMetrics:
    """One process's metrics. Making them twice gives the same metrics again."""

    def __init__(self) -> None:
        """Register. Raises `ImportError` where prometheus_client is missing."""
        import prometheus_client as prometheus

        def counter(name: str, words: str, *labels: str) -> Counter:
            return _registered(prometheus.Counter, name, words, labels)

        def gauge(name: str, words: str, *labels: str) -> Gauge:
            mode = ("multiprocess_mode", "mostrecent")
            return _registered(prometheus.Gauge, name, words, labels, mode)

        self._placements = counter(
            "placements", "Requests placed, by replica and deciding rule.", "replica", "branch"
        )
        self._predicted = counter(
            "predicted_cached_tokens", "Cached tokens predicted for placed requests.", "replica"
        )
        self._actual = counter(
            "actual_cached_tokens", "Cached tokens the engine reported.", "replica"
        )
        self._prompt = counter("prompt_tokens", "Prompt tokens of placed requests.", "replica")
        self._fallbacks = counter(
            "fallbacks", "Requests left to the engine's own dispatch.", "cause"
        )
        self._seconds: Histogram = _registered(
            prometheus.Histogram,
            "placement_seconds",
            "Time to place a request.",
            (),
            ("buckets", _SECONDS_BUCKETS),
        )
        self._lag = gauge(
            "event_lag_seconds", "Age of a replica's last cache event when applied.", "replica"
        )
        self._gaps = gauge("event_gaps", "Gaps seen in a replica's event stream.", "replica")
        self._resident = gauge(
            "resident_blocks", "Blocks believed to be in a replica's cache.", "replica"
        )
        self._queued = gauge(
            "queued_prefill_seconds", "Prefill work placed and not done.", "replica"
        )
        self._trust = gauge(
            "stream_trust", "1 for the state of a replica's event stream.", "replica", "state"
        )
        self._shadow = gauge("shadow", "1 in shadow mode: the engine's own dispatch acts.")
        self._shadow_requests = gauge(
            "shadow_requests", "Requests by where preble would have sent them.", "choice"
        )
        self._shadow_cached = gauge(
            "shadow_cached_tokens",
            "Cached tokens predicted where the engine sent requests, and where preble would have.",
            "dispatch",
        )
        self._shadow_prompt = gauge("shadow_prompt_tokens", "Prompt tokens of these requests.")
        self._recorded = gauge("recorded_requests", "Requests recorded, or not.", "state")
        self._shown: set[str] = set()
        self._of_placement: dict[tuple[ReplicaId, str], tuple[Counter, Counter, Counter]] = {}
        """Looked up once: that takes longer than counting."""

    def placed(self, placement: Placement, prompt_tokens: int, seconds: float) -> None:
        """Count a placement that took `seconds`."""
        key = (placement.replica, placement.branch)
        found = self._of_placement.get(key)
        if found is None:
            replica = str(placement.replica)
            found = self._of_placement[key] = (
                self._placements.labels(replica, placement.branch),
                self._predicted.labels(replica),
                self._prompt.labels(replica),
            )
        placements, predicted, prompt = found
        placements.inc()
        predicted.inc(placement.cached_tokens)
        prompt.inc(prompt_tokens)
        self._seconds.observe(seconds)

    def fallback(self, unplaced: Unplaced) -> None:
        """Count a request that the engine's own dispatch takes."""
        self._fallbacks.labels(unplaced.cause).inc()

    def observed(self, replica: ReplicaId, outcomes: Sequence[Outcome]) -> None:
        """Count what the engine said of its cache."""
        for outcome in outcomes:
            if type(outcome) is FirstToken and outcome.cached_tokens:
                self._actual.labels(str(replica)).inc(outcome.cached_tokens)

    def show(self, status: SchedulerStatus) -> None:
        """Set the gauges to the scheduler's state; call it about each second.
        Those of replicas that are gone are removed, or 0 in multiprocess mode."""
        names = {str(one.replica) for one in status.replicas}
        for one in status.replicas:
            name = str(one.replica)
            self._lag.labels(name).set(one.event_lag_seconds)
            self._gaps.labels(name).set(one.event_gaps)
            self._resident.labels(name).set(one.resident_blocks)
            self._queued.labels(name).set(one.queued_prefill_seconds)
            for state in Trust:
                self._trust.labels(name, state.value).set(state is one.trust)
        for name in self._shown - names:
            self._remove(name)
        self._shown = names
        self._show_shadow(status.shadow)
        if (recording := status.recording) is not None:
            for name in ("written", "dropped", "failed"):
                self._recorded.labels(name).set(getattr(recording, name))

    def _show_shadow(self, shadow: ShadowStatus | None) -> None:
        self._shadow.set(shadow is not None)
        if shadow is not None:
            self._shadow_requests.labels("same").set(shadow.requests - shadow.elsewhere)
            self._shadow_requests.labels("elsewhere").set(shadow.elsewhere)
            self._shadow_cached.labels("engine").set(shadow.cached_tokens)
            self._shadow_cached.labels("preble").set(shadow.would_be_cached_tokens)
            self._shadow_prompt.set(shadow.prompt_tokens)

    def _remove(self, replica: str) -> None:
        by_replica = (self._lag, self._gaps, self._resident, self._queued)
        shown: list[tuple[Gauge, tuple[str, ...]]] = [(one, (replica,)) for one in by_replica]
        shown += [(self._trust, (replica, state.value)) for state in Trust]
        for gauge, labels in shown:
            gauge.labels(*labels).set(0)
            if _MULTIPROCESS not in os.environ:  # prometheus_client cannot remove there
                gauge.remove(*labels)


@cache
def _registered(kind: Any, name: str, words: str, labels: tuple[str, ...], *options: Any) -> Any:
    """A metric on the default registry, made once in this process. `options` are
    pairs of an option's name and value."""
    return kind(f"preble:{name}", words, labels, **dict(options))
