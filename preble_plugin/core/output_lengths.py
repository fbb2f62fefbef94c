"""How many tokens a request will produce, learned from those that finished.

1. Lengths of finished requests feed an exponentially weighted mean; the first
   ones count alike.
2. A request is expected to produce the mean, or its own bound if that is less.
3. A request that runs is expected to produce the mean again, however long it
   has run: exact for geometric lengths, and a long runner of a heavy-tailed
   load has more to come rather than less.
"""

from __future__ import annotations

from typing import Final

UNSEEN_OUTPUT_TOKENS: Final = 256
"""Expected before anything has finished."""

_RATE: Final = 0.02
_LONGEST: Final = 1 << 24


class OutputLengths:
    """The mean output length, in tokens. Every method is O(1)."""

    __slots__ = ("_mean", "_rounded", "_seen")

    def __init__(self) -> None:
        self._mean = 0.0
        self._rounded = UNSEEN_OUTPUT_TOKENS
        self._seen = 0

    def observe(self, output_tokens: int) -> None:
        """A request finished by itself after `output_tokens`; aborted ones say
        nothing of the length and are not to be counted."""
        self._seen += 1
        length = min(max(output_tokens, 0), _LONGEST)
        self._mean += (length - self._mean) * max(1.0 / self._seen, _RATE)
        self._rounded = round(self._mean)

    def expected(self, max_output_tokens: int | None) -> int:
        """Output tokens to expect of a request with this bound; at least 1."""
        mean = self._rounded
        if max_output_tokens is not None and max_output_tokens < mean:
            mean = max_output_tokens
        return mean if mean > 1 else 1
