"""Residency kept outside the scheduler process, to refill it after a restart.

1. Each replica has one file in the server's directory (mode 0600): where its
   stream stood, and its residency as of then, taken together in one turn of the
   loop. It holds seeded hashes and engine hashes, never tokens.
2. One replica at a time, and only one whose stream moved on. What is taken in
   the loop is a flat copy; encoding and writing go on in a thread. After each
   the keeper rests for ten times what it took, and for 500 times what the loop
   had to wait: at most 0.2 % of placements meet it.
3. Files are written beside and renamed: a reader finds the old or the new.
4. After a restart a replica with the same event source starts from its file,
   and its stream decides whether what follows connects; if not, all of it is
   thrown away. A file that cannot be read counts as none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Final

import msgspec

from preble_plugin.core.request import ReplicaId
from preble_plugin.feed.actions import Position
from preble_plugin.service.interface import EventSource, ReplicaSpec

_log = logging.getLogger(__name__)
PAUSE_SECONDS: Final = 2.0
_REST_FACTOR: Final = 10
_LOOP_REST_FACTOR: Final = 500


class SavedResidency(msgspec.Struct, frozen=True, array_like=True):
    """A replica's residency and the point of its stream that it belongs to."""

    replica: ReplicaId
    source: EventSource
    position: Position
    residency: bytes


class Taken(msgspec.Struct, frozen=True):
    """A residency taken and not yet encoded; `encode` may run in a thread."""

    spec: ReplicaSpec
    position: Position
    encode: Callable[[], bytes]


_decoder: msgspec.msgpack.Decoder[SavedResidency] = msgspec.msgpack.Decoder(SavedResidency)


class SnapshotShelf:
    """The snapshot files in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, replica: ReplicaId) -> Path:
        """The replica's file: its name hashed, as it may hold any character."""
        name = blake2b(repr(replica).encode(), digest_size=12).hexdigest()
        return self._directory / f"{name}.residency"

    def write(self, taken: Taken) -> int:
        """Encode and write atomically; the file's size in bytes. Raises `OSError`."""
        assert taken.spec.events is not None
        saved = SavedResidency(
            taken.spec.replica, taken.spec.events, taken.position, taken.encode()
        )
        payload = msgspec.msgpack.encode(saved)
        final = self.path(saved.replica)
        beside = final.with_suffix(".new")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(payload)
        beside.replace(final)
        return len(payload)

    def read(self, spec: ReplicaSpec) -> SavedResidency | None:
        """What was saved of the replica under the same event source, if anything."""
        try:
            saved = _decoder.decode(self.path(spec.replica).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("the snapshot of replica %r cannot be read: %s", spec.replica, error)
            return None
        if (saved.replica, saved.source) != (spec.replica, spec.events):
            return None
        return saved

    def clear(self) -> None:
        """Delete all of them."""
        for pattern in ("*.residency", "*.new"):
            for path in self._directory.glob(pattern):
                path.unlink(missing_ok=True)


async def keep_snapshots(
    shelf: SnapshotShelf,
    replicas: Callable[[], list[ReplicaId]],
    position: Callable[[ReplicaId], Position | None],
    take: Callable[[ReplicaId], Taken | None],
) -> None:
    """Write what changed, one replica after the other, until cancelled.

    `take` runs in the loop, and has to be brief.
    """
    written: dict[ReplicaId, Position] = {}
    told = False
    while True:
        for replica in replicas():
            started = time.monotonic()
            now_at = position(replica)
            if now_at is None or written.get(replica) == now_at:
                continue
            if (taken := take(replica)) is None:
                continue
            waited = time.monotonic() - started
            try:
                await asyncio.to_thread(shelf.write, taken)
                written[replica] = taken.position
            except OSError as error:
                if not told:
                    told = True
                    _log.warning("residency cannot be saved for a restart: %s", error)
            took = time.monotonic() - started
            await asyncio.sleep(max(_REST_FACTOR * took, _LOOP_REST_FACTOR * waited))
        await asyncio.sleep(PAUSE_SECONDS)


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it has ended."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
