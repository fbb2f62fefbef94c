"""Records what a live server is asked, as a trace that `preble simulate` replays.

1. A request is noted when it is placed, or when its front end says where the engine's
   own dispatch sent it. Its line is written when the engine has said how it ended.
2. One that was aborted has the tokens it had till then, none if it had none: a replay
   leaves that out. One whose end nobody told (its replica or its front end died, or
   the scheduler restarted) has no line.
3. Nothing here waits or raises for a fault of the disk: `line_writer` makes and writes
   the lines in a thread.

Times are of the wall clock, in even steps: read once, and counted on from there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from preble_plugin.core.request import Finished, Outcome, ReplicaId, Request
from preble_plugin.core.status import RecordingStatus
from preble_plugin.core.trace_line import Served, record
from preble_plugin.service.line_writer import LineWriter
from preble_plugin.settings import Settings

_STARTS_WITH: Final = b'{"timestamp":'
_BESIDE_KEYS: Final = 1024
"""Bytes that a waiting request takes, beside its keys."""


def recording_of(settings: Settings) -> Recording | None:
    """The recording that the settings ask for, not yet started."""
    if settings.record is None:
        return None
    return Recording(recording_path(settings.record), settings.record_megabytes * 1_000_000)


def recording_path(text: str) -> Path:
    """The file that the setting `record` names, in this process."""
    return Path(text.replace("{pid}", str(os.getpid()))).expanduser()


class _Open:
    """A request that runs."""

    __slots__ = ("at", "block_size", "cached_tokens", "first_token_at", "replica", "request")

    def __init__(self, request: Request, block_size: int, replica: ReplicaId, at: float) -> None:
        self.request = request
        self.block_size = block_size
        self.replica = replica
        self.at = at
        self.first_token_at: float | None = None
        self.cached_tokens: int | None = None


class Recording:
    """The requests of one scheduler. Used from its loop; times are its clock's, in
    seconds (monotonic)."""

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._writer = LineWriter(path, _STARTS_WITH, most_bytes)
        self._wall = time.time() - time.monotonic()
        self._open: dict[str, _Open] = {}

    def asked(self, request: Request, block_size: int, replica: ReplicaId, now: float) -> None:
        """A request comes, and goes to `replica`; or one that runs goes there instead.
        O(1)."""
        known = self._open.get(request.request_id)
        if known is not None:
            known.replica = replica
        elif request.prompt_tokens and not self._writer.full:
            self._open[request.request_id] = _Open(request, block_size, replica, now)

    def observe(self, replica: ReplicaId, outcomes: Sequence[Outcome], now: float) -> None:
        """What the engine on `replica` said at `now` of the requests there. O(outcomes)."""
        for outcome in outcomes:
            known = self._open.get(outcome.request_id)
            if known is None or known.replica != replica:
                continue
            if isinstance(outcome, Finished):
                del self._open[outcome.request_id]
                self._ended(known, outcome, now)
            else:
                if outcome.timed:
                    known.first_token_at = now
                known.cached_tokens = outcome.cached_tokens

    def forget(self, request_ids: Iterable[str]) -> None:
        """Nobody will tell how these ended."""
        for request_id in request_ids:
            self._open.pop(request_id, None)

    def forget_replica(self, replica: ReplicaId) -> None:
        """A replica is gone, and the requests on it. O(requests that run)."""
        self.forget([name for name, one in self._open.items() if one.replica == replica])

    def status(self) -> RecordingStatus:
        """The recording now."""
        writer = self._writer
        return RecordingStatus(
            str(writer.path), writer.written, writer.dropped, writer.failed, writer.full
        )

    def start(self) -> None:
        """Begin to write; idempotent."""
        self._writer.start()

    def close(self) -> None:
        """Write what has ended, and end; idempotent. May wait 5 s for the disk."""
        self._writer.close()

    def _ended(self, known: _Open, end: Finished, now: float) -> None:
        # What generates nothing (pooling) cost a step, as one token does.
        output_tokens = end.output_tokens if end.aborted else max(1, end.output_tokens)
        first = known.first_token_at
        served = Served(
            known.request,
            known.block_size,
            known.at + self._wall,
            output_tokens,
            known.replica,
            known.cached_tokens,
            None if first is None else first + self._wall,
            now + self._wall,
            end.aborted,
        )
        self._writer.put(partial(record, served), len(known.request.keys) + _BESIDE_KEYS)
