from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble_plugin.core.output_lengths import UNSEEN_OUTPUT_TOKENS, OutputLengths


def seen(*lengths: int) -> OutputLengths:
    learned = OutputLengths()
    for length in lengths:
        learned.observe(length)
    return learned


@pytest.mark.parametrize(
    ("bound", "expected"), [(None, UNSEEN_OUTPUT_TOKENS), (16, 16), (4096, UNSEEN_OUTPUT_TOKENS)]
)
def test_before_anything_finished_the_bound_or_a_guess_is_expected(bound, expected):
    assert seen().expected(bound) == expected


@pytest.mark.parametrize(("bound", "expected"), [(None, 40), (16, 16), (4096, 40)])
def test_the_observed_mean_is_expected_up_to_the_bound(bound, expected):
    assert seen(30, 40, 50).expected(bound) == expected


def test_a_change_of_load_is_followed():
    assert 190 < seen(*[10] * 200, *[200] * 200).expected(None) <= 200


@given(st.lists(st.integers(-(10**30), 10**30)), st.none() | st.integers(-5, 10**30))
def test_an_expectation_is_a_token_or_more_and_within_the_bound(lengths, bound):
    expected = seen(*lengths).expected(bound)

    assert expected >= 1
    assert bound is None or expected <= max(bound, 1)
