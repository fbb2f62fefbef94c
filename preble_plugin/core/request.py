"""What the scheduler is asked and what it answers.

1. An adapter turns the engine's request into a `Request`: block keys (never
   token ids, so that the same struct crosses a process boundary), lengths and
   what the user fixed.
2. `Scheduler.place(request, now)` answers with a `Placement`.
3. The engine's outputs come back as `FirstToken` and `Finished`.

Times are seconds on one clock, a monotonic one or the wall clock; lengths are tokens
unless the name says blocks.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from preble_plugin.core.block_keys import KEY_BYTES

MAX_SECONDS: Final = 1e15
"""Times are less than this in size: 30 million years."""

ReplicaId: TypeAlias = int | str
"""A replica's name: the data-parallel rank, or `backend/rank` behind a router."""


class Request(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """A request as the scheduler sees it.

    `keys` holds one 64-bit block key for each full block of the prompt, packed
    little-endian (`BlockHasher.prompt_keys`); it is empty where the prompt has
    no token ids (prompt embeddings), and the request is then placed by load. Raises
    ValueError for a length that is no multiple of 8 bytes.
    """

    request_id: str
    """The engine's own id, unique among requests in flight."""
    keys: bytes
    prompt_tokens: int
    external_id: str | None = None
    """The id the client knows; `preble explain` finds the request by it."""
    max_output_tokens: int | None = None
    priority: int = 0
    session_id: str | None = None
    fixed_replica: ReplicaId | None = None
    """Set where the user named the replica: it is obeyed and accounted."""
    reads_cache: bool = True
    """False where the engine skips its prefix cache for this request
    (vLLM: `skip_reading_prefix_cache`): hits are then zero."""
    computes: bool = True
    """False where another server computed the prompt, and its blocks are transferred here
    (vLLM: `do_remote_prefill`): no prefill is booked for it, and it teaches none."""

    def __post_init__(self) -> None:
        if len(self.keys) % KEY_BYTES:
            raise ValueError(
                f"keys takes {KEY_BYTES} bytes for each block, got {len(self.keys)} bytes; "
                "make them with BlockHasher.prompt_keys()"
            )


class Placement(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """Where a request goes and what is expected of its cache there."""

    request_id: str
    replica: ReplicaId
    cached_tokens: int
    """Predicted hit on `replica`: the figure that the engine's own count audits."""
    branch: str
    """Which rule decided: `exploit`, `explore`, `fixed`, or a policy's own name."""


class FirstToken(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, tag=1):
    """The engine produced a request's first output: its prefill is done."""

    request_id: str
    cached_tokens: int | None
    """Tokens the replica found in its own cache, or None if it did not say."""
    timed: bool = True
    """False where it is told later than it came, as with an answer that comes whole: it
    audits the prediction, and its time teaches nothing."""


class Finished(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A request left the engine: finished, failed or aborted."""

    request_id: str
    output_tokens: int
    aborted: bool = False
    events_tell: bool = True
    """False where the engine's events do not tell the blocks that this request leaves from
    those of equal tokens in another namespace: its replica is then taken to hold them
    because they were placed there, up to its capacity, until its cache is cleared."""


Outcome: TypeAlias = FirstToken | Finished


def check_seconds(name: str, seconds: float) -> None:
    """Raise ValueError, naming the argument, for a time that is NaN, infinite, or
    `MAX_SECONDS` or more in size. O(1)."""
    if not -MAX_SECONDS < seconds < MAX_SECONDS:
        raise ValueError(
            f"{name} takes a finite number of seconds below {MAX_SECONDS:g}, got {seconds!r}; "
            "pass what time.monotonic() says"
        )
