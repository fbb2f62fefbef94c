"""What a time model has learned, beside one that was taught the same directly."""

from __future__ import annotations

from typing import Any

import pytest

from preble_plugin.core.time_model import TimeModel


def prefill_law(*observations: tuple[float, ...]) -> Any:
    """Coefficients after these observations of prefill (`TimeModel.observe_prefill`)."""
    model = TimeModel()
    for one in observations:
        assert model.observe_prefill(*one), "an observation that teaches nothing"
    return pytest.approx(model.prefill_coefficients, rel=1e-9)


def decode_law(*observations: tuple[float, ...]) -> Any:
    """Coefficients after these observations of decode (`TimeModel.observe_decode`)."""
    model = TimeModel()
    for one in observations:
        assert model.observe_decode(*one), "an observation that teaches nothing"
    return pytest.approx(model.decode_coefficients, rel=1e-9)
