import pytest

from preble_plugin.bench.open_loop import Answer
from preble_plugin.bench.result import Comparison, Run, figures
from preble_plugin.bench.table import render, rows
from preble_plugin.bench.vllm_server import Metrics


def answer(at: float = 0.0, ttft: float = 0.1, error: str | None = None) -> Answer:
    return Answer(0, at, 0.0, ttft, ttft + 0.1, 100, 64, 8, error)


def metrics(first: float, second: float) -> Metrics:
    name = "vllm:prompt_tokens_by_source_total"
    return Metrics(
        "\n".join(
            [
                f"# TYPE {name.removesuffix('_total')} counter",
                f'{name}{{engine="0",source="local_compute"}} {first}',
                f'{name}{{engine="0",source="local_cache_hit"}} 5000',
                f'{name}{{engine="1",source="local_compute"}} {second}',
                "",
            ]
        )
    )


def run(dispatch: str, round: int, ttft: float) -> Run:
    found = figures([answer(ttft=ttft)], metrics(0, 0), metrics(300, 100))
    return Run(dispatch, round, found, [answer(ttft=ttft)])


def comparison(*runs: Run) -> Comparison:
    return Comparison("documents", 4.0, 1, "2 CPU cores", "vLLM 0", list(runs))


def test_the_mean_and_p99_are_those_of_the_answers() -> None:
    answers = [answer(ttft=0.001 * number) for number in range(101)]
    found = figures(answers, metrics(0, 0), metrics(0, 0))
    assert (found.mean_ttft, found.p99_ttft) == (pytest.approx(0.05), pytest.approx(0.099))


def test_work_is_what_each_replica_computed_during_the_run() -> None:
    found = figures([answer()], metrics(1000, 2000), metrics(1300, 2100))
    assert found.computed_tokens == {"0": 300, "1": 100}


def test_failed_calls_are_counted_and_leave_the_times_alone() -> None:
    found = figures([answer(ttft=0.1), answer(ttft=60, error="x")], metrics(0, 0), metrics(0, 0))
    assert (found.requests, found.failed, found.mean_ttft) == (2, 1, 0.1)


def test_throughput_counts_from_the_first_arrival_to_the_last_answer() -> None:
    answers = [answer(at=1.0), answer(at=4.8, ttft=0.1)]
    assert figures(answers, metrics(0, 0), metrics(0, 0)).throughput == pytest.approx(0.5)


def test_a_server_that_answered_nothing_is_an_error_with_its_cause() -> None:
    with pytest.raises(RuntimeError, match="503"):
        figures([answer(error="503: busy")], metrics(0, 0), metrics(0, 0))


def test_ratios_are_medians_of_the_rounds_own_ratios() -> None:
    pairs = [(0.4, 0.1), (0.6, 0.2), (9.0, 1.0)]  # ratios 4, 3 and 9
    runs = [
        run(side, number, ttft)
        for number, pair in enumerate(pairs)
        for side, ttft in zip(("default", "preble"), pair, strict=True)
    ]
    assert comparison(*runs).ratio("mean_ttft", "default", "preble") == pytest.approx(4.0)


def test_the_table_shows_both_sides_and_how_much_faster() -> None:
    table = rows(comparison(run("default", 0, 0.4), run("preble", 0, 0.1)))
    assert table[0] == ("mean TTFT", ["400 ms", "100 ms"], "4.00x faster")


def test_the_table_shows_how_the_work_was_shared() -> None:
    table = {row.name: row.cells for row in rows(comparison(run("default", 0, 0.4)))}
    assert table["work per replica"] == ["75% / 25%"]


def test_one_side_alone_has_no_ratio() -> None:
    assert all(row.ratio == "" for row in rows(comparison(run("default", 0, 0.4))))


def test_every_line_of_the_drawn_table_fits_its_columns() -> None:
    lines = render(comparison(run("default", 0, 0.4), run("preble", 0, 0.1))).splitlines()
    ends = {line.index("ms", line.index("ms") + 2) for line in lines if line.count("ms") == 2}
    assert len(ends) == 1
