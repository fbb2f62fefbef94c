"""Runs and comparisons as a demo would have measured them."""

from preble_plugin.bench.open_loop import Answer
from preble_plugin.bench.result import Comparison, Run, Side, figures


def answer(at: float = 0.0, ttft: float = 0.1, error: str | None = None) -> Answer:
    return Answer(0, at, 0.0, ttft, ttft + 0.1, 100, 64, 8, error)


def computed(first: float, second: float) -> dict[str, float]:
    return {"0": first, "1": second}


def run(dispatch: str, round: int, ttft: float) -> Run:
    found = figures([answer(ttft=ttft)], computed(0, 0), computed(300, 100))
    return Run(dispatch, round, found, [answer(ttft=ttft)])


def comparison(*runs: Run) -> Comparison:
    names = dict.fromkeys(run.dispatch for run in runs)
    sides = {name: Side(f"the {name} side", name) for name in names}
    return Comparison("documents", 4.0, 1, "2 CPU cores", "vLLM 0", sides, list(runs))
