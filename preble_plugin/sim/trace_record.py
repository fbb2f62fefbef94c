"""One line of a trace: Mooncake's record and what a recording adds (docs/workloads.md).

A line says how the prompt's prefix is shared in one of two ways: `hash_ids`, a number
for each block, equal where the prefix up to there is equal; or `keys`, the block keys of
a live server packed as it has them. Neither holds a token.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Annotated, Final, TypeAlias

import msgspec

from preble_plugin.core.request import Request

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
}
"""Each field in words; the remedy in an error."""

_encoder: Final = msgspec.json.Encoder()


def encoded(line: Record) -> bytes:
    """The line, with its line feed."""
    return _encoder.encode(line) + b"\n"


def record(
    request: Request, *, block_size: int, at_seconds: float, output_tokens: int | None
) -> bytes:
    """The line of a live server's request, to be appended to its recording.

    `block_size` is that of `request.keys`, in tokens. `at_seconds` is when it came, on
    one clock for the whole file; `output_tokens` is None where it never ended. Lines may
    come in any order. O(blocks): 11 bytes a block.
    """
    stamp = round(at_seconds * 1000, 3)
    return encoded(
        Record(
            timestamp=stamp,
            input_length=request.prompt_tokens,
            output_length=output_tokens,
            block_size=block_size,
            keys=b64encode(request.keys).decode(),
            request_id=request.request_id,
            session_id=request.session_id,
            max_output_tokens=request.max_output_tokens,
            priority=request.priority,
        )
    )
