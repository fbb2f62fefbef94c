"""What is to be run: the workload, its rate, and how the servers are set up.

1. Where the rate of arrivals is left open it suits the machine. The warm-up of
   the first server times prompts that are not cached and prompts that are. Two
   ranks, each with a cache for half of the documents, and any document sent to
   any of them, find about half of the prompts: their capacity is the harmonic
   mean of the two paces. The rate is `LOAD` of that capacity: the engine's own
   dispatch is busy, without a queue that grows for as long as the load lasts.
2. On a slow machine fewer requests are sent, so that the demo ends in time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from preble_plugin.bench import workload
from preble_plugin.bench.open_loop import Pace
from preble_plugin.bench.workload import Workload

LOAD: Final = 0.65
REQUESTS: Final = 336
LONGEST_SECONDS: Final = 85.0


@dataclass(frozen=True)
class Plan:
    """What is to be run; None where the stage chooses by the machine's pace."""

    workload: str = "documents"
    rate: float | None = None
    """Arrivals in requests per second."""
    requests: int | None = None
    """Requests of a side and round."""
    documents: int = 24
    seed: int = 1
    cache_tokens: int = 38400
    """Cache of a rank: about half of all documents."""
    front_ends: int | None = None
    """Processes that take requests in; None is the engine's own choice."""
    settings: str | None = None
    """For `--dp-scheduler-config` of the sides that have a scheduler."""

    def load(self, pace: Pace) -> tuple[Workload, float]:
        """The workload and its rate. Raises `ValueError` where they cannot be."""
        rate = self.rate if self.rate is not None else round(LOAD * self._capacity(pace), 1)
        requests = self.requests
        if requests is None:
            in_time = REQUESTS if self.rate else int(rate * LONGEST_SECONDS)
            requests = max(self.documents, min(REQUESTS, in_time))
        if self.workload == "unique":
            return workload.unique(requests, rate, seed=self.seed), rate
        return workload.documents(requests, rate, self.documents, seed=self.seed), rate

    def _capacity(self, pace: Pace) -> float:
        if self.workload == "unique":
            return pace.uncached
        return 2 / (1 / pace.uncached + 1 / pace.cached)
