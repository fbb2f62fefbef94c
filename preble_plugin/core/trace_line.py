"""One line of a trace: Mooncake's record and what a recording adds (docs/workloads.md).

1. A line says how the prompt's prefix is shared in one of two ways: `hash_ids`, a number
   for each block, equal where the prefix up to there is equal; or `keys`, the block keys
   of a live server packed as it has them. Neither holds a token.
2. What a live server adds of what became of a request (where it ran, what was cached
   there, when) is passed over by a replay.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Annotated, Final, TypeAlias

import msgspec

from preble_plugin.core.request import ReplicaId, Request

MOONCAKE_BLOCK: Final = 512

_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
_Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]


class Record(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A request as a trace has it; `MEANING` says what each field is."""

    timestamp: float
    input_length: _Positive
    output_length: _Count | None = None
    hash_ids: list[int] | None = None
    block_size: _Positive | None = None
    block_lengths: list[_Positive] | None = None
    keys: str | None = None
    answer: int | None = None
    request_id: str | None = None
    session_id: str | int | None = None
    after: str | None = None
    max_output_tokens: _Positive | None = None
    priority: int = 0
    replica: ReplicaId | None = None
    cached_tokens: _Count | None = None
    first_token_ms: float | None = None
    ended_ms: float | None = None
    aborted: bool = False


MEANING: Final = {
    "timestamp": "milliseconds from any fixed moment; with `after`, from that request's end",
    "input_length": "the prompt's tokens, a whole number of at least 1",
    "output_length": "the tokens generated, a whole number; leave it out if it never ended",
    "hash_ids": "whole numbers, one for each block of the prompt, equal for equal prefixes",
    "block_size": "tokens of a block, a whole number of at least 1",
    "block_lengths": "tokens of each block of `hash_ids`, where they differ",
    "keys": "the 64-bit keys of the prompt's full blocks, little-endian, in base64",
    "answer": "the number that stands for the answer where a later prompt's hash_ids repeat it",
    "request_id": "text that no other line has",
    "session_id": "text or a number",
    "after": "the request_id that has to end first",
    "max_output_tokens": "the limit that the request gave, a whole number of at least 1",
    "priority": "a whole number",
    "replica": "where it ran, a whole number or text",
    "cached_tokens": "prompt tokens that the replica found cached, a whole number",
    "first_token_ms": "milliseconds from `timestamp` to the first output",
    "ended_ms": "milliseconds from `timestamp` to the end",
    "aborted": "true where it did not come to its own end",
}
"""Each field in words; the remedy in an error."""

_encoder: Final = msgspec.json.Encoder()


def encoded(line: Record) -> bytes:
    """The line, with its line feed."""
    return _encoder.encode(line) + b"\n"


class Served(msgspec.Struct, frozen=True, gc=False):
    """A request of a live server, and what became of it. Times are seconds on the clock
    of the whole recording."""

    request: Request
    block_size: int
    """Of `request.keys`, in tokens."""
    at: float
    """When it came."""
    output_tokens: int | None
    """None where it never ended."""
    replica: ReplicaId | None = None
    cached_tokens: int | None = None
    first_token_at: float | None = None
    ended_at: float | None = None
    aborted: bool = False


def record(served: Served) -> bytes:
    """The line of a live server's request, to be appended to its recording.

    Its `request_id` is the engine's, `@`, and the time: an engine's ids may come again.
    Lines may come in any order. O(blocks): 11 bytes a block. Raises `UnicodeEncodeError`
    for an id that is no text.
    """
    request = served.request
    stamp = round(served.at * 1000, 3)
    # NOTE: an engine gives a limit of 0 for requests that generate nothing (pooling).
    return encoded(
        Record(
            timestamp=stamp,
            input_length=request.prompt_tokens,
            output_length=served.output_tokens,
            block_size=served.block_size,
            keys=b64encode(request.keys).decode(),
            request_id=f"{request.request_id}@{stamp:.3f}",
            session_id=request.session_id,
            max_output_tokens=request.max_output_tokens or None,
            priority=request.priority,
            replica=served.replica,
            cached_tokens=served.cached_tokens,
            first_token_ms=_after(served.at, served.first_token_at),
            ended_ms=_after(served.at, served.ended_at),
            aborted=served.aborted,
        )
    )


def _after(start: float, end: float | None) -> float | None:
    return None if end is None else round((end - start) * 1000, 3)
