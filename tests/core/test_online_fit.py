from __future__ import annotations

import random

import pytest

from preble_plugin.core.online_fit import OnlineFit


@pytest.mark.parametrize("prior", [(), (0.0, 1.0), (-1.0,), (float("nan"),), (float("inf"),)])
def test_a_prior_that_cannot_be_scaled_is_refused(prior):
    with pytest.raises(ValueError, match="positive, finite"):
        OnlineFit(prior)


@pytest.mark.parametrize(
    ("features", "value"),
    [
        ((1.0, 1.0), 0.0),
        ((1.0, 1.0), -1.0),
        ((1.0, 1.0), float("nan")),
        ((1.0, 1.0), float("inf")),
        ((0.0, 0.0), 1.0),
        ((-1.0, 1.0), 1.0),
        ((float("nan"), 1.0), 1.0),
        ((10**400, 1.0), 1.0),
    ],
)
def test_an_observation_that_says_nothing_changes_nothing(features, value):
    fit = OnlineFit((1.0, 2.0))

    assert (fit.observe(features, value), fit.coefficients, fit.observations) == (
        False,
        [1.0, 2.0],
        0,
    )


@pytest.mark.parametrize("factor", [1 / 100, 1 / 3, 3, 100])
def test_terms_that_are_never_told_apart_keep_the_priors_proportion(factor):
    fit = OnlineFit((1.0, 10.0))
    for _ in range(50):
        fit.observe((1.0, 1.0), 11.0 * factor)

    assert fit.coefficients == pytest.approx([factor, 10.0 * factor], rel=0.02)


def test_a_term_that_lowers_the_value_is_held_at_zero():
    draw = random.Random(1)
    fit = OnlineFit((1.0, 1.0))
    for _ in range(200):
        x = draw.uniform(0, 1)
        fit.observe((1.0, x), 2.0 - x)

    assert fit.coefficients[1] == 0.0
    assert 1.0 < fit.coefficients[0] < 2.0
