import pytest

from preble_plugin.bench.result import figures
from preble_plugin.bench.table import headings, render, rows
from tests.bench.comparisons import answer, comparison, computed, run


def test_the_mean_and_p99_are_those_of_the_answers() -> None:
    answers = [answer(ttft=0.001 * number) for number in range(101)]
    found = figures(answers, computed(0, 0), computed(0, 0))
    assert (found.mean_ttft, found.p99_ttft) == (pytest.approx(0.05), pytest.approx(0.099))


def test_work_is_what_each_replica_computed_during_the_run() -> None:
    found = figures([answer()], computed(1000, 2000), computed(1300, 2100))
    assert found.computed_tokens == {"0": 300, "1": 100}


def test_failed_calls_are_counted_and_leave_the_times_alone() -> None:
    found = figures([answer(ttft=0.1), answer(ttft=60, error="x")], computed(0, 0), computed(0, 0))
    assert (found.requests, found.failed, found.mean_ttft) == (2, 1, 0.1)


def test_throughput_counts_from_the_first_arrival_to_the_last_answer() -> None:
    answers = [answer(at=1.0), answer(at=4.8, ttft=0.1)]
    assert figures(answers, computed(0, 0), computed(0, 0)).throughput == pytest.approx(0.5)


def test_a_server_that_answered_nothing_is_an_error_with_its_cause() -> None:
    with pytest.raises(RuntimeError, match="503"):
        figures([answer(error="503: busy")], computed(0, 0), computed(0, 0))


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
    assert table[0] == ("mean TTFT", ["400 ms", "100 ms"], ["4.00x faster"])


def test_the_table_shows_how_the_work_was_shared() -> None:
    table = {row.name: row.cells for row in rows(comparison(run("default", 0, 0.4)))}
    assert table["work per replica"] == ["75% / 25%"]


def test_one_side_alone_has_no_ratio() -> None:
    assert all(row.ratios == [""] for row in rows(comparison(run("default", 0, 0.4))))


def test_every_line_of_the_drawn_table_fits_its_columns() -> None:
    lines = render(comparison(run("default", 0, 0.4), run("preble", 0, 0.1))).splitlines()
    ends = {line.index("ms", line.index("ms") + 2) for line in lines if line.count("ms") == 2}
    assert len(ends) == 1


def test_preble_is_set_against_each_of_several_dispatches() -> None:
    found = comparison(run("default", 0, 0.4), run("total", 0, 0.3), run("preble", 0, 0.1))
    assert headings(found).ratios == ["preble vs default", "preble vs total"]
    assert rows(found)[0].ratios == ["4.00x faster", "3.00x faster"]


def test_without_preble_the_others_are_set_against_the_first() -> None:
    found = comparison(run("default", 0, 0.4), run("total", 0, 0.2))
    assert rows(found)[0].ratios == ["2.00x faster"]
