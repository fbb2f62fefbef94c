"""Coefficients of a replica from timed requests, by least squares.

1. A prefill of a prompt alone takes the front end's time and that of its steps; a decode
   step with b requests takes one step's time, whatever the front end does.
2. Each is a sum of the coefficients of `sim.hardware`, so that all timings together are
   one linear system, solved for the least *relative* error.
3. No coefficient may be negative but the square in the large steps: attention there is
   taken as new tokens times context, of which a causal one leaves half of the new
   tokens' square away.
4. Few tokens and many cost differently. The bound between them is the one of `BOUNDS`
   that leaves the least error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from preble_plugin.sim.hardware import (
    DecodeAttention,
    Hardware,
    LinearPiece,
    PrefillAttention,
)

BOUNDS: Final = (9, 17, 25, 33, 49, 65, 97, 129)
COLUMNS: Final = (
    *("small_fixed", "small_token", "large_fixed", "large_token", "large_square"),
    *("prefill_product", "decode_context", "front_fixed", "front_token"),
)
SIGNED: Final = COLUMNS.index("large_square")
LEAST_LARGE: Final = 4
"""Chunks above a bound that are needed for a law of their own."""


class Sample(NamedTuple):
    """One timing: the first token of a prompt of `context` tokens of which `new` had to be
    computed, front end included; or, with `new` 0, a step in which `decoding` requests
    have `context` tokens between them."""

    new: int
    context: int
    decoding: int
    seconds: float

    @property
    def kind(self) -> tuple[int, int, int]:
        """All but the time."""
        return self[:3]


class Front(msgspec.Struct, frozen=True):
    """What a request takes outside of its replica: way in and way out."""

    seconds: float = 0.0
    seconds_per_token: float = 0.0
    """Of the prompt."""

    def of(self, prompt_tokens: int) -> float:
        """Seconds of one request."""
        return self.seconds + self.seconds_per_token * prompt_tokens


class Fitted(msgspec.Struct, frozen=True):
    """A replica and what is before it, as fitted."""

    hardware: Hardware
    front: Front
    samples: int
    median_error: float
    """Of the samples: |fitted - timed| / timed."""
    worst_error: float


def fit(samples: Sequence[Sample], limits: Hardware) -> Fitted:
    """The coefficients that explain `samples` best; name, source and limits are those of
    `limits`, whose coefficients do not count.

    Raises ValueError where the samples do not tell coefficients apart.
    """
    tried = [_fit(samples, limits, below) for below in BOUNDS if below <= limits.batch_tokens]
    fitted = [one for one in tried if one is not None]
    if not fitted:
        raise ValueError(f"{len(samples)} samples are too few, or too much alike, for a fit")
    return min(fitted, key=lambda one: one[0])[1]


def mean(samples: Iterable[Sample]) -> list[Sample]:
    """One sample for each kind, with the mean of its times: a queue pays for slow ones too."""
    return [Sample(*kind, float(np.mean(seconds))) for kind, seconds in by_kind(samples).items()]


def by_kind(samples: Iterable[Sample]) -> dict[tuple[int, int, int], list[float]]:
    """The times of each kind."""
    kinds: dict[tuple[int, int, int], list[float]] = defaultdict(list)
    for one in samples:
        kinds[one.kind].append(one.seconds)
    return kinds


def predicted(fitted: Fitted, sample: Sample) -> float:
    """Seconds of a sample by the fitted coefficients."""
    hardware = fitted.hardware
    if sample.decoding:
        return hardware.step_seconds([], sample.decoding, sample.context)
    took = hardware.prefill_seconds(sample.new, sample.context)
    return took + fitted.front.of(sample.context)
    return took + fitted.front.of(sample.context)


def _fit(samples: Sequence[Sample], limits: Hardware, below: int) -> tuple[float, Fitted] | None:
    rows = np.array([_row(one, limits.batch_tokens, below) for one in samples])
    seconds = np.array([one.seconds for one in samples])
    if (rows[:, COLUMNS.index("large_fixed")] > 0).sum() < LEAST_LARGE:
        return None
    relative = rows / seconds[:, None]
    if np.linalg.matrix_rank(relative / np.linalg.norm(relative, axis=0).clip(1e-30)) < len(
        COLUMNS
    ):
        return None
    found = dict(zip(COLUMNS, _least_squares(relative).tolist(), strict=True))
    ms = {name: round(value * 1e3, 9) for name, value in found.items()}
    hardware = msgspec.structs.replace(
        limits,
        linear=(
            LinearPiece(below, ms["small_fixed"], ms["small_token"]),
            LinearPiece(0, ms["large_fixed"], ms["large_token"], ms["large_square"]),
        ),
        prefill=PrefillAttention(per_product=ms["prefill_product"]),
        decode=DecodeAttention(per_context=ms["decode_context"]),
        efficiency=1.0,
    )
    fitted = Fitted(
        hardware, Front(found["front_fixed"], found["front_token"]), len(samples), 0.0, 0.0
    )
    errors = np.abs(np.array([predicted(fitted, one) for one in samples]) / seconds - 1)
    return float(np.square(errors).sum()), msgspec.structs.replace(
        fitted, median_error=float(np.median(errors)), worst_error=float(errors.max())
    )


def _row(sample: Sample, batch_tokens: int, below: int) -> list[float]:
    """What each of `COLUMNS` is multiplied by."""
    row = dict.fromkeys(COLUMNS, 0.0)

    def step(tokens: int) -> None:
        size = "small" if tokens < below else "large"
        row[f"{size}_fixed"] += 1
        row[f"{size}_token"] += tokens
        if size == "large":
            row["large_square"] += tokens**2

    if sample.decoding:
        step(sample.decoding)
        row["decode_context"] = sample.context
        return list(row.values())
    left, context = sample.new, sample.context - sample.new
    while left > 0:
        new = min(left, batch_tokens)
        left -= new
        context += new
        step(new)
        row["prefill_product"] += new * context
    row["front_fixed"] = 1
    row["front_token"] = sample.context
    return list(row.values())


def _least_squares(relative: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients for which each row gives 1; those that would be negative are 0."""
    scale = np.linalg.norm(relative, axis=0)
    kept = list(range(relative.shape[1]))
    while True:
        columns = relative[:, kept] / scale[kept]
        solved = np.linalg.lstsq(columns, np.ones(len(relative)), rcond=None)[0]
        negative = [
            (value, column)
            for value, column in zip(solved.tolist(), kept, strict=True)
            if value < 0 and column != SIGNED
        ]
        if not negative:
            break
        kept.remove(min(negative)[1])
    whole = np.zeros(relative.shape[1])
    whole[kept] = solved / scale[kept]
    return whole
