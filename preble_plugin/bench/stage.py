"""One side at a time, on a fresh server, under the same load.

1. Each side gets a server of its own with an empty cache, warmed by the same
   unrelated prompts on every rank, so that neither pays first-request costs.
2. The load is settled once, for all sides, by what the warm-up of the first
   server says of the machine's pace (`plan`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tqdm import tqdm

from preble_plugin.bench import workload
from preble_plugin.bench.engines import Engine
from preble_plugin.bench.foreign import ForeignLoad
from preble_plugin.bench.open_loop import drive, warm
from preble_plugin.bench.plan import Plan
from preble_plugin.bench.result import Run, figures
from preble_plugin.bench.workload import Workload

RANKS: Final = 2
WARM_UP_REQUESTS: Final = 14


class Stage:
    """Runs sides, and remembers the load that the first of them settled."""

    def __init__(self, engine: Engine, plan: Plan, model: Path, logs: Path) -> None:
        self.plan = plan
        self.engine = engine
        self.rate = 0.0
        self._model = model
        self._logs = logs
        self._load: Workload | None = None

    def run(self, dispatch: str, number: int) -> Run:
        """One side, in round `number`.

        Raises `ServerError` where the server does not start, `RuntimeError` where it
        answers nothing; the server is ended in any case.
        """
        server = self.engine.server(
            self._model, self._logs / f"{dispatch}.log", dispatch, self.plan
        )
        name, usual = self.engine.side(dispatch).heading, self.engine.start_seconds
        try:
            with _bar(f"{name}: starting {server.engine}", usual) as show:
                server.start(waiting=lambda elapsed: show(min(elapsed, 0.97 * usual)))
                show(usual)
            warm_up = workload.unique(WARM_UP_REQUESTS, 1.0, seed=self.plan.seed + 1000)
            pace = warm(server.base_url, server.served_name, warm_up.calls, RANKS)
            if self._load is None:
                self._load, self.rate = self.plan.load(pace)
            calls = self._load.calls
            before, foreign = server.computed_tokens(), ForeignLoad(server.cpu_seconds)
            text = f"{name}: {len(calls)} requests, {self.rate:g}/s"
            with _bar(text, len(calls)) as show:
                done = iter(range(1, len(calls) + 1))
                answers = drive(
                    server.base_url, server.served_name, calls, lambda _: show(next(done))
                )
            found = figures(answers, before, server.computed_tokens(), foreign.cores())
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
