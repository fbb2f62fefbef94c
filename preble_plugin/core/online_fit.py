"""A linear law with non-negative terms, fitted while it is used.

1. The law is `value = sum_j c_j x_j` with `c_j >= 0`; a prior gives each `c_j`.
2. An observation is winsorised: its log ratio to the prediction is clipped at
   twice the usual one, so that a compile or a pause moves the fit as little as
   an ordinary late answer, while a lasting change widens the clip within a few
   observations and is then followed.
3. A row is divided by what the prior predicts for it, so that errors count in
   per cent, and weighs less the more its value exceeds the prediction. Rows are
   forgotten exponentially; what is kept is one small matrix and one vector.
4. The normal equations are regularised towards the prior's *proportions* at
   the observed speed: terms that the observations cannot tell apart keep the
   prior's ratio. Sweeps of projected coordinate descent, each from the last
   one's solution on, keep every term non-negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, isfinite, log
from operator import mul
from typing import Final

_KEEP: Final = 0.98
"""Weight an observation keeps at each later one: a memory of about 50."""
_RIDGE: Final = 0.01
_WARM: Final = 32
_SWEEP_EVERY: Final = 4
"""Past the first `_WARM` observations, those between two sweeps."""
_FIRST_SPREAD: Final = 3.0
"""Log spread granted to the first observations: the prior may be 400 times off."""
_LEAST_SPREAD: Final = 0.05
_SPREAD_RATE: Final = 0.1
_LIMITS: Final = (1e-9, 1e6)
"""Observations outside this range are taken as its ends."""
_LARGEST_FEATURE: Final = 1e15


class OnlineFit:
    """Fits `coefficients`, one per term, in the unit of the value per unit of the term.

    `prior` holds a positive first guess for each. Memory O(terms^2).
    """

    __slots__ = ("_gram", "_moment", "_prior", "_scaled", "_spread", "coefficients", "observations")

    def __init__(self, prior: Sequence[float]) -> None:
        if not prior or not all(isfinite(guess) and guess > 0 for guess in prior):
            raise ValueError(f"a prior needs positive, finite coefficients, got {list(prior)}")
        self._prior = tuple(prior)
        self.coefficients = list(prior)
        self.observations = 0
        terms = range(len(prior))
        self._scaled = [1.0 for _ in terms]  # coefficients as multiples of the prior
        self._gram = [[0.0 for _ in terms] for _ in terms]
        self._moment = [0.0 for _ in terms]
        self._spread = _FIRST_SPREAD

    def observe(self, features: Sequence[float], value: float) -> bool:
        """Learn from one observation; False if it says nothing (a value that is
        not positive, features that are all zero, anything not finite).

        `features` are non-negative, one per term. O(terms^2): about 6 us for four.
        """
        if not (isfinite(value) and value > 0.0):
            return False
        row = []
        predicted = 0.0
        for feature, guess, multiple in zip(features, self._prior, self._scaled, strict=True):
            if not 0.0 <= feature <= _LARGEST_FEATURE:
                return False
            share = feature * guess
            row.append(share)
            predicted += share * multiple
        size = sum(row)
        if size < 1e-15:
            return False
        predicted = max(predicted, _LIMITS[0])
        value = self._winsorised(min(max(value, _LIMITS[0]), _LIMITS[1]), predicted)
        scale = min(1.0, predicted / value) / size
        self._accumulate([share * scale for share in row], value * scale)
        self.observations += 1
        if self.observations < _WARM or not self.observations % _SWEEP_EVERY:
            self._sweep()
        return True

    def _winsorised(self, value: float, predicted: float) -> float:
        error = log(value / predicted)
        bound = 2.0 * self._spread
        spread = self._spread + _SPREAD_RATE * (min(abs(error), 2.0 * bound) - self._spread)
        self._spread = min(max(spread, _LEAST_SPREAD), _FIRST_SPREAD)
        if abs(error) <= bound:
            return value
        return predicted * exp(bound if error > 0.0 else -bound)

    def _accumulate(self, row: list[float], value: float) -> None:
        moment = self._moment
        for term, (share, line) in enumerate(zip(row, self._gram, strict=True)):
            moment[term] = moment[term] * _KEEP + share * value
            for other, paired in enumerate(row):
                line[other] = line[other] * _KEEP + share * paired

    def _sweep(self) -> None:
        gram, moment, scaled = self._gram, self._moment, self._scaled
        total = sum(map(sum, gram))
        speed = sum(moment) / total
        # All terms by one factor first: a change of speed is the usual change.
        explained = sum(map(mul, scaled, moment))
        energy = sum(
            multiple * sum(map(mul, line, scaled))
            for multiple, line in zip(scaled, gram, strict=True)
        )
        factor = explained / energy if energy > 0.0 else 1.0
        for term, multiple in enumerate(scaled):
            scaled[term] = multiple * factor
        for term, line in enumerate(gram):
            own = line[term]
            if own < 1e-12 * total:  # never seen: as far off as the rest is
                scaled[term] = speed
            else:
                ridge = _RIDGE * own
                rest = moment[term] - sum(map(mul, line, scaled)) + own * scaled[term]
                scaled[term] = max(0.0, (rest + ridge * speed) / (own + ridge))
            self.coefficients[term] = scaled[term] * self._prior[term]
