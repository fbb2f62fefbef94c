from __future__ import annotations

from preble_plugin.cli.simulate_table import comparison_text
from preble_plugin.sim.figures import Figures, figures
from preble_plugin.sim.fleet import Served
from preble_plugin.sim.sweep import Result


def run(latency: float, cached_tokens: int = 0) -> Figures:
    """One replica, one request of that latency, whose first token takes half of it."""
    served = Served("r", 0, "any", 0.0, latency / 2, latency, 100, cached_tokens, 0, 2)
    return figures([served], 1, warm_up=0)


def result(
    policy: str, found: Figures | None, *, rate: float | None = 1.0, seed: int = 1
) -> Result:
    return Result("tool", rate, policy, seed, found, None if found else "it broke")


def row(text: str, policy: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"{policy} ")]
    return line.split()[1:]


def test_a_row_has_times_share_spread_and_ratio() -> None:
    text = comparison_text([result("a", run(4)), result("b", run(1, 75))], "a")
    assert row(text, "b") == ["0.500", "0.500", "1.000", "1.000", "75.0%", "0.0%", "4.00x"]


def test_seeds_have_mean_figures_and_the_geometric_mean_of_their_ratios() -> None:
    results = [
        *(result("a", run(latency), seed=seed) for seed, latency in ((1, 8), (2, 2))),
        *(result("b", run(latency), seed=seed) for seed, latency in ((1, 1), (2, 1))),
    ]
    text = comparison_text(results, "a")
    assert row(text, "a")[2] == "5.000"
    assert row(text, "b")[-1] == "4.00x"


def test_a_ratio_is_over_the_seeds_that_both_served() -> None:
    results = [
        *(result("a", run(8), seed=1), result("a", None, seed=2)),
        *(result("b", run(4), seed=1), result("b", run(100), seed=2)),
    ]
    assert row(comparison_text(results, "a"), "b")[-1] == "2.00x"


def test_a_policy_that_failed_keeps_its_row() -> None:
    text = comparison_text([result("a", run(1)), result("b", None)], "a")
    assert row(text, "b") == ["-"] * 6 + ["failed"]


def test_without_the_baseline_there_is_no_ratio() -> None:
    text = comparison_text([result("a", None), result("b", run(1))], "a")
    assert row(text, "b")[-1] == "-"


def test_several_rates_are_summed_up_by_geometric_means_and_the_worst() -> None:
    results = [
        *(result("a", run(latency), rate=rate) for rate, latency in ((1, 2), (2, 8))),
        *(result("b", run(latency), rate=rate) for rate, latency in ((1, 4), (2, 1))),
    ]
    together = comparison_text(results, "a").split("all 2 together")[1]
    assert row(together, "b") == ["2.00x", "2.00x", "2.00x", "2.00x", "0.50x"]


def test_a_rate_of_its_own_is_said() -> None:
    assert "tool at its own times" in comparison_text([result("a", run(1), rate=None)], "a")
