from __future__ import annotations

import pytest

from preble_plugin.core.calibration import Calibration
from preble_plugin.core.time_model import TimeModel


class Heard(TimeModel):
    """The time model, which also notes what it is taught."""

    def __init__(self) -> None:
        super().__init__()
        self.prefills: list[tuple[float, ...]] = []
        self.decodes: list[tuple[float, ...]] = []

    def observe_prefill(self, *figures: float) -> bool:  # type: ignore[override]
        self.prefills.append(figures)
        return super().observe_prefill(*figures)  # type: ignore[arg-type]

    def observe_decode(self, *figures: float) -> bool:  # type: ignore[override]
        self.decodes.append(figures)
        return super().observe_decode(*figures)  # type: ignore[arg-type]


def test_prefill_is_timed_from_the_placement_on_an_idle_replica():
    model = Heard()
    calibration = Calibration(model)
    calibration.prefilled(1, 500, 2000, 1_000_000, earliest=10.0, now=10.25)
    calibration.settle(11.0)

    assert model.prefills == [(1, 500, 2000, 1_000_000, 0.25)]


def test_prefill_is_timed_from_the_previous_first_token_in_a_queue():
    model = Heard()
    calibration = Calibration(model)
    calibration.prefilled(1, 500, 500, 250_000, earliest=10.0, now=10.25)
    calibration.prefilled(2, 800, 900, 320_000, earliest=10.0, now=10.75)
    calibration.settle(11.0)

    assert model.prefills[1] == (2, 800, 900, 320_000, 0.5)


def test_first_tokens_of_one_step_in_two_messages_are_one_observation():
    model = Heard()
    calibration = Calibration(model)
    calibration.prefilled(1, 500, 500, 250_000, earliest=10.0, now=10.25)
    calibration.prefilled(1, 300, 300, 90_000, earliest=10.0, now=10.2505)
    calibration.settle(11.0)

    assert model.prefills == [(2, 800, 800, 340_000, pytest.approx(0.2505))]


def test_nothing_is_learned_while_more_of_a_step_may_come():
    model = Heard()
    calibration = Calibration(model)
    calibration.prefilled(1, 500, 500, 250_000, earliest=10.0, now=10.25)
    calibration.settle(10.251)

    assert model.prefills == []


def test_decode_is_timed_over_the_mean_batch_and_without_the_prefill_meanwhile():
    model = Heard()
    calibration = Calibration(model)
    since = calibration.passed(10.0, 0, 0)
    calibration.passed(11.0, 1, 1000)  # one second alone
    calibration.passed(14.0, 3, 4000)  # three seconds among three
    prefill = model.queue_seconds(1, 5000, 5000, 25_000_000)
    calibration.prefilled(1, 5000, 5000, 25_000_000, earliest=11.0, now=14.0)
    calibration.decoded(since, 101)

    assert model.decodes == [(100, 3250.0, 2.5, pytest.approx(4.0 - prefill))]


def test_decode_says_nothing_where_prefill_filled_its_time():
    model = Heard()
    calibration = Calibration(model)
    since = calibration.passed(10.0, 0, 0)
    calibration.passed(10.3, 1, 1000)
    calibration.prefilled(1, 5000, 5000, 25_000_000, earliest=10.0, now=10.3)
    calibration.decoded(since, 101)

    assert model.decodes == []


@pytest.mark.parametrize("output_tokens", [-1, 0, 1, 2])
def test_a_token_or_two_say_nothing_of_decode(output_tokens):
    model = Heard()
    calibration = Calibration(model)
    since = calibration.passed(10.0, 0, 0)
    calibration.passed(11.0, 1, 1000)
    calibration.decoded(since, output_tokens)

    assert model.decodes == []


def test_a_clock_that_goes_back_is_time_that_stands():
    calibration = Calibration(TimeModel())
    calibration.passed(10.0, 0, 0)
    calibration.passed(11.0, 2, 100)

    assert calibration.passed(5.0, 2, 100) == (11.0, 0.0, 2.0, 100.0)
