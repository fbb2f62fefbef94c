"""Traces in and out: one JSON object a line, `.gz` or plain (docs/workloads.md).

1. Each line becomes parts of streams: a block is the stream of its hash id or key, so
   that equal prefixes come out equal. What the blocks do not cover is the request's own.
2. Requests that never ended are left out, with those that wait for them, and counted.
3. The rest is put in order: by time, and behind what it comes after. Times count from
   the first request; a rate stretches them.

A line that cannot be read stops the reading with file, line, field and remedy. Only the
very last line may be torn: a server that was killed leaves one, and it is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from preble_plugin.core.trace_line import Record, encoded
from preble_plugin.sim.arrivals import at_rate
from preble_plugin.sim.asked import Asked
from preble_plugin.sim.trace_lines import Lines, TraceError, opened

__all__ = ["TraceError", "read_trace", "write_trace"]

logger: Final = logging.getLogger(__name__)


def read_trace(path: str | Path, rate: float | None = None) -> list[Asked]:
    """The requests of a trace, in order; with `rate`, at that many requests/s on average.

    A rate scales the times at which requests come, not the pauses of those that come
    after another. Reads line by line; Mooncake's 12,031 lines take half a second.

    Raises `TraceError`; OSError where the file cannot be read; ValueError for a rate
    that cannot be.
    """
    lines = Lines(Path(path))
    found: dict[str, Asked] = {}
    for line in lines.records():
        asked = lines.asked(line)
        if asked is not None:
            found[asked.request_id] = asked
    lines.check_after()
    ordered = _in_order(found.values())
    left_out = lines.lines_read - len(ordered)
    if left_out:
        logger.warning(
            "%s: %d of %d requests never ended, or wait for one that never did, and are left out",
            path,
            left_out,
            lines.lines_read,
        )
    return _timed(ordered, rate)


def write_trace(path: str | Path, asked: Iterable[Asked]) -> None:
    """Write requests so that `read_trace` finds the same prefixes shared, to the token.

    Streams are numbered as they come up. The file is replaced.
    """
    names: dict[int, int] = {}

    def name(stream: int) -> int:
        return names.setdefault(stream, len(names))

    with opened(Path(path), "wb") as file:
        for request in asked:
            parts = [part for part in request.prompt if part.tokens]
            line = Record(
                timestamp=round(request.at * 1000, 3),
                input_length=request.prompt_tokens,
                output_length=request.output_tokens,
                hash_ids=[name(part.stream) for part in parts],
                block_lengths=[part.tokens for part in parts],
                answer=None if request.answer is None else name(request.answer),
                request_id=request.request_id,
                session_id=request.session_id,
                after=request.after,
                max_output_tokens=request.max_output_tokens,
                priority=request.priority,
            )
            file.write(encoded(line))


def _in_order(found: Iterable[Asked]) -> list[Asked]:
    """By time, each behind the one it comes after; what waits for none there is dropped."""
    followers: dict[str | None, list[Asked]] = {}
    for request in found:
        followers.setdefault(request.after, []).append(request)
    ordered: list[Asked] = []
    waiting = sorted(followers.get(None, []), key=lambda request: request.at)[::-1]
    while waiting:
        ordered.append(waiting.pop())
        waiting += reversed(followers.get(ordered[-1].request_id, []))
    return ordered


def _timed(ordered: list[Asked], rate: float | None) -> list[Asked]:
    """With the first at 0 and, where a rate is given, at that rate."""
    times = np.array([request.at for request in ordered if request.after is None])
    if not len(times):
        return ordered
    times = times - times[0] if rate is None else at_rate(times, rate, len(ordered))
    moved = iter(times.tolist())
    return [
        request if request.after is not None else msgspec.structs.replace(request, at=next(moved))
        for request in ordered
    ]
