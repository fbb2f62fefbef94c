"""Draws by seed: even ones, so that a few hundred requests already have the
distribution that is asked for.

1. `even(n)` cuts [0, 1) into n strips, draws one number in each and shuffles them. It
   is a Latin hypercube: its mean is that of plain draws, without most of their noise.
2. `spread(weights)` does so for things that are used unequally: over the *uses* the
   numbers are even. Without it one tool with a tenth of all requests would make the
   mean prompt of a workload its own.
3. A distribution is its inverse applied to those numbers, so that nothing depends on
   how a version of numpy draws it.
"""

from __future__ import annotations

from math import inf
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from preble_plugin.sim.streams import stream_number

Floats: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.int64]


class Draws:
    """The random numbers of one workload and seed."""

    def __init__(self, seed: int, kind: str) -> None:
        self._stream = np.random.Generator(np.random.PCG64(stream_number(seed, "draws", kind)))

    def even(self, n: int) -> Floats:
        """n numbers in (0, 1), one in each strip of width 1 / n, in random order."""
        strips = self._stream.permutation(n)
        return _inside((strips + self._stream.random(n)) / max(n, 1))

    def spread(self, weights: NDArray[np.integer[Any]]) -> Floats:
        """One number in (0, 1) for each weight; even over the weights' mass."""
        order = self._stream.permutation(len(weights))
        mass = weights[order].astype(np.float64)
        numbers = np.empty(len(weights))
        numbers[order] = (np.cumsum(mass) - mass / 2) / max(float(mass.sum()), 1.0)
        return _inside(numbers)

    def shuffled(self, n: int) -> Counts:
        """0 .. n - 1 in random order."""
        return self._stream.permutation(n).astype(np.int64)


def _inside(numbers: Floats) -> Floats:
    return np.clip(numbers, 1e-12, 1 - 1e-12)


def normal(even: Floats, mean: float, sd: float) -> Floats:
    """Normal draws from even numbers."""
    inverse = NormalDist(mean, sd).inv_cdf
    return np.array([inverse(number) for number in even.tolist()], dtype=np.float64)


def lognormal(even: Floats, mu: float, sigma: float) -> Floats:
    """exp of N(mu, sigma): mean exp(mu + sigma^2 / 2)."""
    return np.exp(normal(even, mu, sigma))


def exponential(even: Floats, mean: float) -> Floats:
    """Exponential draws from even numbers."""
    return -mean * np.log1p(-even)


def between(even: Floats, low: float, high: float) -> Floats:
    """Uniform draws in [low, high)."""
    return low + even * (high - low)


def whole(values: Floats, least: float = 1, most: float = inf) -> Counts:
    """Rounded to whole numbers within [least, most]."""
    return np.rint(np.clip(values, least, most)).astype(np.int64)
