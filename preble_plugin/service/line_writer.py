"""Appends lines to a file in a thread, so that who has them never waits for a disk.

1. `put` leaves a line with its maker. It takes no lock and never raises: lines lie in
   a deque with one thread at each end. What is beyond `WAITING_BYTES` is dropped and
   counted.
2. The thread makes and writes what lies there twice a second, each time by one write,
   and once more at `close` or at the interpreter's end.
3. The file is opened with the first lines, with mode 0600, and appended to. A line
   that a killed process left torn there is cut off, and so is what a failed write
   leaves: whole lines alone stand in the file.
4. What cannot be written is counted and logged once. A file of `most_bytes` is full:
   that is said once, and no more is taken.
"""

from __future__ import annotations

import atexit
import logging
import os
import stat
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)
WAITING_BYTES: Final = 64 << 20
"""Of lines that wait to be written, as `put` is told."""
_PAUSE_SECONDS: Final = 0.5
_CLOSE_SECONDS: Final = 5.0
_TAIL_BYTES: Final = 16 << 20
"""The longest torn line that is looked for."""


class LineWriter:
    """Lines for the file at `path`. `starts_with` is what each of them begins with, by
    which a torn one is known as ours. Used from one thread, but for its own."""

    def __init__(self, path: Path, starts_with: bytes, most_bytes: int) -> None:
        self.path = path
        self.written = 0
        self.dropped = 0
        self.failed = 0
        self.full = False
        self._starts_with = starts_with
        self._most_bytes = most_bytes
        self._waiting: deque[tuple[Callable[[], bytes], int]] = deque()
        self._bytes_put = 0  # by those who put
        self._bytes_taken = 0  # by the thread
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._file: int | None = None
        self._told = False

    def put(self, make: Callable[[], bytes], kept_bytes: int) -> None:
        """Have a line written. `make` makes it, in the thread; it keeps about
        `kept_bytes` until then. O(1)."""
        if self.full:
            return
        if self._bytes_put - self._bytes_taken + kept_bytes > WAITING_BYTES:
            self.dropped += 1
            return
        self._bytes_put += kept_bytes
        self._waiting.append((make, kept_bytes))

    def start(self) -> None:
        """Begin to write; idempotent."""
        if self._thread is None:
            self._ending.clear()
            self._thread = threading.Thread(target=self._run, name="preble-lines", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    def close(self) -> None:
        """Write what there is, for at most 5 s, and end; idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            atexit.unregister(self.close)
            self._ending.set()
            thread.join(_CLOSE_SECONDS)

    # -- in the thread -----------------------------------------------------------------

    def _run(self) -> None:
        ending = False
        while not ending:
            ending = self._ending.wait(_PAUSE_SECONDS)
            if self._waiting:
                self._write_waiting()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write_waiting(self) -> None:
        lines: list[bytes] = []
        for _ in range(len(self._waiting)):
            make, kept_bytes = self._waiting.popleft()
            self._bytes_taken += kept_bytes
            try:
                lines.append(make())
            except Exception as error:
                self._failed(1, error)
        try:
            if self._file is None:
                self._file = _open(self.path, self._starts_with)
            self._append(self._file, lines)
        except OSError as error:
            self._failed(len(lines), error)

    def _append(self, file: int, lines: list[bytes]) -> None:
        """Raises `OSError` with none of them written."""
        before = os.fstat(file).st_size
        room, fitting = self._most_bytes - before, 0
        while fitting < len(lines) and len(lines[fitting]) <= room:
            room -= len(lines[fitting])
            fitting += 1
        rest = memoryview(b"".join(lines[:fitting]))
        try:
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError:
            os.ftruncate(file, before)
            raise
        self.written += fitting
        if fitting < len(lines) and not self.full:
            self.full = True
            _log.warning(
                "%s has reached its %d MB (setting 'record_megabytes'): nothing more is recorded",
                self.path,
                self._most_bytes // 1_000_000,
            )

    def _failed(self, lines: int, error: Exception) -> None:
        self.failed += lines
        if not self._told:
            self._told = True
            reason = error.strerror if isinstance(error, OSError) else repr(error)
            _log.error("cannot record to %s: %s; counted from here on", self.path, reason)


def _open(path: Path, starts_with: bytes) -> int:
    """The file, to be appended to, without the torn line at its end if that is one of
    ours. Raises `OSError`."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
    file = os.open(path, flags, 0o600)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "it is no regular file")
        size = found.st_size
        start = max(0, size - _TAIL_BYTES)
        tail = os.pread(file, size - start, start)
        torn = tail[tail.rfind(b"\n") + 1 :]
        if torn:
            ours = torn.startswith(starts_with) or starts_with.startswith(torn)
            if not ours:
                raise OSError(0, "what stands there does not end with a line feed")
            os.ftruncate(file, size - len(torn))
    except BaseException:
        os.close(file)
        raise
    return file
