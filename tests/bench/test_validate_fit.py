"""The fit of a replica's coefficients, on timings that a known replica makes."""

import pytest

from benchmarks.validate.fit import Sample, fit, mean
from tests.bench.validate_builders import KNOWN, timings


def test_known_coefficients_are_found_again() -> None:
    found = fit(timings(0.008), KNOWN)
    small, large = found.hardware.linear
    assert (small.below, small.fixed, small.per_token) == pytest.approx((17, 12.0, 0.2))
    assert (large.fixed, large.per_token, large.per_token_squared) == pytest.approx(
        (14.0, 0.5, -1e-4), rel=1e-4
    )
    assert found.hardware.prefill.per_product == pytest.approx(2e-4, rel=1e-4)
    assert found.hardware.decode.per_context == pytest.approx(3e-4, rel=1e-4)
    assert (found.front.seconds, found.front.seconds_per_token) == pytest.approx(
        (0.008, 0.0), abs=1e-8
    )
    assert found.worst_error < 1e-4


def test_noise_of_a_tenth_leaves_times_within_a_tenth() -> None:
    found = fit(timings(0.008, noise=0.1), KNOWN).hardware
    for new in (32, 200, 512):
        assert found.step_seconds([(new, 700)], 0, 0) == pytest.approx(
            KNOWN.step_seconds([(new, 700)], 0, 0), rel=0.1
        )
    assert found.step_seconds([], 8, 4000) == pytest.approx(
        KNOWN.step_seconds([], 8, 4000), rel=0.1
    )


def test_no_coefficient_but_the_square_is_negative() -> None:
    found = fit(timings(0.008, noise=0.4), KNOWN)
    coefficients = [found.hardware.prefill.per_product, found.hardware.decode.per_context]
    for piece in found.hardware.linear:
        coefficients += [piece.fixed, piece.per_token]
    coefficients += [found.front.seconds, found.front.seconds_per_token]
    assert min(coefficients) >= 0


def test_limits_and_name_are_kept() -> None:
    found = fit(timings(0.008), KNOWN).hardware
    assert (found.name, found.kv_tokens, found.batch_tokens) == ("known", 4096, 512)


def test_samples_of_one_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="3 samples are too few"):
        fit([Sample(64, 64, 0, 0.1)] * 3, KNOWN)


def test_the_mean_of_each_shape_stands_for_it() -> None:
    times = [Sample(64, 64, 0, seconds) for seconds in (0.3, 0.1, 0.5)]
    assert mean([*times, Sample(0, 64, 1, 0.5)]) == [
        Sample(64, 64, 0, pytest.approx(0.3)),
        Sample(0, 64, 1, 0.5),
    ]
