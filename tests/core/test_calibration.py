from __future__ import annotations

import pytest
from laws import decode_law, prefill_law

from preble_plugin.core.calibration import Calibration
from preble_plugin.core.time_model import TimeModel


def test_prefill_is_timed_from_the_placement_on_an_idle_replica():
    model = TimeModel()
    calibration = Calibration(model)
    calibration.prefilled(1, 500, 2000, 1_000_000, earliest=10.0, now=10.25)
    calibration.settle(11.0)

    assert model.prefill_coefficients == prefill_law((1, 500, 2000, 1_000_000, 0.25))


def test_prefill_is_timed_from_the_previous_first_token_in_a_queue():
    model = TimeModel()
    calibration = Calibration(model)
    calibration.prefilled(1, 500, 500, 250_000, earliest=10.0, now=10.25)
    calibration.prefilled(2, 800, 900, 320_000, earliest=10.0, now=10.75)
    calibration.settle(11.0)

    assert model.prefill_coefficients == prefill_law(
        (1, 500, 500, 250_000, 0.25), (2, 800, 900, 320_000, 0.5)
    )


def test_first_tokens_of_one_step_in_two_messages_are_one_observation():
    model = TimeModel()
    calibration = Calibration(model)
    calibration.prefilled(1, 500, 500, 250_000, earliest=10.0, now=10.25)
    calibration.prefilled(1, 300, 300, 90_000, earliest=10.0, now=10.2505)
    calibration.settle(11.0)

    assert model.prefill_coefficients == prefill_law((2, 800, 800, 340_000, 0.2505))


def test_nothing_is_learned_while_more_of_a_step_may_come():
    model = TimeModel()
    calibration = Calibration(model)
    calibration.prefilled(1, 500, 500, 250_000, earliest=10.0, now=10.25)
    calibration.settle(10.251)

    assert model.prefill_coefficients == prefill_law()


def test_decode_is_timed_over_the_mean_batch_and_without_the_prefill_meanwhile():
    model = TimeModel()
    calibration = Calibration(model)
    since = calibration.passed(10.0, 0, 0)
    calibration.passed(11.0, 1, 1000)  # one second alone
    calibration.passed(14.0, 3, 4000)  # three seconds among three
    prefill = model.queue_seconds(1, 5000, 5000, 25_000_000)
    calibration.prefilled(1, 5000, 5000, 25_000_000, earliest=11.0, now=14.0)
    calibration.decoded(since, 101)

    assert model.decode_coefficients == decode_law((100, 3250.0, 2.5, 4.0 - prefill))


def test_decode_says_nothing_where_prefill_filled_its_time():
    model = TimeModel()
    calibration = Calibration(model)
    since = calibration.passed(10.0, 0, 0)
    calibration.passed(10.3, 1, 1000)
    calibration.prefilled(1, 5000, 5000, 25_000_000, earliest=10.0, now=10.3)
    calibration.decoded(since, 101)

    assert model.decode_coefficients == decode_law()


@pytest.mark.parametrize("output_tokens", [-1, 0, 1, 2])
def test_a_token_or_two_say_nothing_of_decode(output_tokens):
    model = TimeModel()
    calibration = Calibration(model)
    since = calibration.passed(10.0, 0, 0)
    calibration.passed(11.0, 1, 1000)
    calibration.decoded(since, output_tokens)

    assert model.decode_coefficients == decode_law()


def test_a_clock_that_goes_back_is_time_that_stands():
    calibration = Calibration(TimeModel())
    calibration.passed(10.0, 0, 0)
    calibration.passed(11.0, 2, 100)

    assert calibration.passed(5.0, 2, 100) == (11.0, 0.0, 2.0, 100.0)
