"""One side at a time, on a fresh server, under the same load.

1. Each side gets a server of its own with an empty cache, warmed by the same
   unrelated prompts on every rank, so that neither pays first-request costs.
2. The load is settled once, for all sides. Where the rate of arrivals is left
   open it suits the machine: the warm-up of the first server times prompts that
   are not cached and prompts that are. Two ranks, each with a cache for half of
   the documents, and any document sent to any of them, find about half of the
   prompts: their capacity is the harmonic mean of the two paces. The rate is
   `LOAD` of that capacity: vLLM's own dispatch is busy, without a queue that
   grows for as long as the load lasts.
3. On a slow machine fewer requests are sent, so that the demo ends in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tqdm import tqdm

from preble_plugin.bench import workload
from preble_plugin.bench.foreign import ForeignLoad
from preble_plugin.bench.open_loop import Pace, drive, warm
from preble_plugin.bench.result import Run, figures
from preble_plugin.bench.table import OWN, heading
from preble_plugin.bench.vllm_server import CPU_ENVIRONMENT, TWO_REPLICAS, VllmServer
from preble_plugin.bench.workload import Workload

LOAD: Final = 0.65
REQUESTS: Final = 336
LONGEST_SECONDS: Final = 85.0
RANKS: Final = 2
WARM_UP_REQUESTS: Final = 14
TYPICAL_START_SECONDS: Final = 35.0

ENVIRONMENT: Final[Mapping[str, str | None]] = {
    **CPU_ENVIRONMENT,
    "PREBLE_DP_SCHEDULER": None,
    "PREBLE_CONFIG": None,
}
"""Nothing that the caller's shell says of placement reaches a side."""


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
    blocks: int = 1200
    """Cache of a rank, in blocks of 32 tokens."""
    api_servers: int | None = None
    """API server processes; None is vLLM's own choice, one a rank."""
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

    def server_arguments(self, dispatch: str) -> list[str]:
        """Arguments of `vllm serve` for one side."""
        chosen = [*TWO_REPLICAS, "--num-gpu-blocks-override", str(self.blocks)]
        if self.api_servers is not None:
            chosen += ["--api-server-count", str(self.api_servers)]
        if dispatch != OWN:
            chosen += ["--dp-scheduler", dispatch]
            if self.settings is not None:
                chosen += ["--dp-scheduler-config", self.settings]
        return chosen

    def _capacity(self, pace: Pace) -> float:
        if self.workload == "unique":
            return pace.uncached
        return 2 / (1 / pace.uncached + 1 / pace.cached)


class Stage:
    """Runs sides, and remembers the load that the first of them settled."""

    def __init__(self, plan: Plan, model: Path, logs: Path) -> None:
        self.plan = plan
        self.rate = 0.0
        self._model = model
        self._logs = logs
        self._load: Workload | None = None

    def run(self, dispatch: str, number: int) -> Run:
        """One side, in round `number`.

        Raises `ServerError` where vLLM does not start, `RuntimeError` where it
        answers nothing; the server is ended in any case.
        """
        server = VllmServer(
            self._model,
            self._logs / f"{dispatch}.log",
            self.plan.server_arguments(dispatch),
            ENVIRONMENT,
        )
        name = heading(dispatch)
        try:
            with _bar(f"{name}: starting vLLM", TYPICAL_START_SECONDS) as show:
                server.start(
                    waiting=lambda elapsed: show(min(elapsed, 0.97 * TYPICAL_START_SECONDS))
                )
                show(TYPICAL_START_SECONDS)
            warm_up = workload.unique(WARM_UP_REQUESTS, 1.0, seed=self.plan.seed + 1000)
            pace = warm(server.base_url, server.served_name, warm_up.calls, RANKS)
            if self._load is None:
                self._load, self.rate = self.plan.load(pace)
            calls = self._load.calls
            before, foreign = server.metrics(), ForeignLoad(server.cpu_seconds)
            text = f"{name}: {len(calls)} requests, {self.rate:g}/s"
            with _bar(text, len(calls)) as show:
                done = iter(range(1, len(calls) + 1))
                answers = drive(
                    server.base_url, server.served_name, calls, lambda _: show(next(done))
                )
            found = figures(answers, before, server.metrics(), foreign.cores())
        finally:
            server.stop()
        return Run(dispatch=dispatch, round=number, figures=found, answers=answers)


@contextmanager
def _bar(text: str, total: float) -> Iterator[Callable[[float], None]]:
    """A progress bar on a terminal, a line elsewhere; set by how much is done."""
    layout = "{desc:<48} {percentage:3.0f}% {bar:30} {elapsed}"
    with tqdm(total=total, desc=text, bar_format=layout, disable=None) as bar:
        if bar.disable:
            print(text, flush=True)

        def show(done: float) -> None:
            bar.update(done - bar.n)

        yield show
