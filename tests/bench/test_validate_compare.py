"""Real beside simulated: what is added, what is refused, when two orders are the same."""

import msgspec
import pytest

from benchmarks.validate.compare import PACING, at, beside, efficiency, heard, same_order, simulated
from benchmarks.validate.report import report
from tests.bench import validate_builders as built


def test_the_front_end_is_added_to_first_tokens_and_ends() -> None:
    workload = [built.asked(f"request {number}", number * 10.0) for number in range(4)]
    without = simulated(workload, built.fitted(), "round-robin", 2, 32)
    behind = simulated(workload, built.fitted(front_seconds=0.25), "round-robin", 2, 32)
    assert behind.mean_ttft == pytest.approx(without.mean_ttft + 0.25)
    assert behind.mean_latency == pytest.approx(without.mean_latency + 0.25)


def test_the_front_end_delays_what_comes_after() -> None:
    chain = [built.asked("first", 0.0), built.asked("second", 1.0, after="first")]
    without = simulated(chain, built.fitted(), "round-robin", 1, 32)
    behind = simulated(chain, built.fitted(front_seconds=0.25), "round-robin", 1, 32)
    # Its own way in and out, and the first one's.
    assert behind.seconds == pytest.approx(without.seconds + 2 * 0.25)


def test_a_machine_of_half_the_pace_takes_twice_as_long() -> None:
    alone = [built.asked("a", 0.0)]
    usual = simulated(alone, built.fitted(), "round-robin", 1, 32)
    slow = simulated(alone, at(built.fitted(), 0.5), "round-robin", 1, 32)
    assert slow.mean_latency == pytest.approx(2 * usual.mean_latency)


def test_the_efficiency_is_found_from_a_run_at_it() -> None:
    slow = at(built.fitted(front_seconds=0.01), 0.8)
    ran = built.answers_of(PACING.workload(), slow, "round-robin")
    assert efficiency(ran, built.fitted(0.01), 2, 32) == pytest.approx(0.8, rel=0.02)


def test_what_was_heard_is_summed_up_as_the_simulator_does() -> None:
    found = heard(built.run(built.heard("a", 0.1, 0.4), built.heard("b", 0.3, 0.6)))
    assert (found.mean_ttft, found.mean_latency) == pytest.approx((0.2, 0.5))


def test_a_run_with_a_failed_request_is_refused() -> None:
    failed = built.run(built.heard("a", 0.1, 0.4), built.heard("b", 0.3, 0.6, error="500"))
    with pytest.raises(ValueError, match="1 requests failed, b: 500"):
        heard(failed)


def test_the_middle_round_stands_for_all() -> None:
    rounds = [heard(built.run(built.heard("a", 0.1, latency))) for latency in (0.5, 0.4, 0.6)]
    row = beside(built.run(built.heard("a", 0.1, 0.4)), rounds, rounds[0])
    assert (row.rounds, row.latency, row.spread) == (3, 0.5, pytest.approx(0.4))


@pytest.mark.parametrize(
    ("real", "simulated", "same"),
    [
        ((1.0, 2.0), (0.9, 1.7), True),
        ((1.0, 2.0), (1.7, 0.9), False),
        ((1.0, 1.03), (1.03, 1.0), True),  # nobody can tell
        ((1.0, 1.03), (1.2, 1.0), False),
        ((1.0, 1.03), (1.0, 1.2), True),
    ],
)
def test_orders_are_the_same_where_pairs_lie_the_same_way(
    real: tuple[float, float], simulated: tuple[float, float], same: bool
) -> None:
    rows = [
        built.beside(f"policy {i}", *each)
        for i, each in enumerate(zip(real, simulated, strict=True))
    ]
    assert same_order(rows) is same


def test_the_report_tells_ratios_orders_and_coefficients() -> None:
    rows = [built.beside("e2", 1.0, 1.1), built.beside("own", 2.0, 1.0)]
    text = report("vllm", built.fitted(front_seconds=0.008), [0.9, 0.95, 1.2], rows)
    assert "| hot | 4/s | e2 | 1 | 500 ms | 550 ms | 1.10 | 1000 ms | 1100 ms | 1.10" in text
    assert "mean latency: simulated over real 0.80 (median), 0.50 to 1.10; 1 of 2" in text
    assert "same order of policies: 0 of 1 cells" in text
    assert "a step below 17 tokens: 12.00 +0.200 n ms" in text
    assert "front end: 8.0 ms" in text
    assert "efficiency 0.95: the middle of 3 loaded runs, 0.90 to 1.20" in text


def test_a_row_survives_being_written() -> None:
    row = built.beside("e2", 1.0, 1.1)
    assert msgspec.json.decode(msgspec.json.encode(row), type=type(row)) == row
