"""What is asked of a fleet: prompts as parts of streams, and when they come.

1. A prompt is a row of parts. A part is the first tokens of a *stream*, an endless
   row of token ids that its number determines. Prompts share a prefix where they
   begin with the same parts: equal streams, equal lengths.
2. A request comes at a time, or some time after another has ended (a closed loop:
   the next turn of an agent).
3. What a request answers is a stream too, its own or a named one, so that a later
   prompt can go on from an answer.

No tokens are kept: a prompt of 30,000 takes some hundred bytes until it is used.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.uint32]


class Part(NamedTuple):
    """The first `tokens` tokens of stream `stream`."""

    stream: int
    tokens: int


class Asked(msgspec.Struct, frozen=True):
    """One request of a workload."""

    request_id: str
    at: float
    """Seconds: from the start of the workload, or from the end of `after`."""
    prompt: tuple[Part, ...]
    output_tokens: int
    """At least 1; the fleet does not know it."""
    after: str | None = None
    """The request that has to end first."""
    answer: int | None = None
    """The stream that is answered; None for one that nobody else uses."""
    session_id: str | None = None
    max_output_tokens: int | None = None
    """What the request says of its length."""
    priority: int = 0

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return sum(part.tokens for part in self.prompt)


def stream_tokens(stream: int, tokens: int) -> Tokens:
    """The first `tokens` ids of a stream, below 2^31. Streams differ from their first
    token on. O(tokens)."""
    state = np.uint64((stream * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & (1 << 64) - 1)
    mixed = np.arange(tokens, dtype=np.uint64) * np.uint64(0xD6E8FEB86659FD93) + state
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(33)).astype(np.uint32)
