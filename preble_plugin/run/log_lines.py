"""What a child writes, passed on line by line with its name in front.

A thread reads, so that whoever reads us slowly holds up the children's logs and never the
signals. Once nobody reads us any more it goes on reading: a child that cannot write would
stop serving.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from io import RawIOBase
from typing import Final

_LINE_ENDS: Final = re.compile(rb"[\r\n]+")
"""A carriage return alone is what progress bars write."""
_LONGEST_BYTES: Final = 1 << 16
_writing: Final = threading.Lock()


class Lines:
    """One pipe of one child. `end` is for the child; `begin` closes it here. `sink` has no
    buffer: the lock of one could be held for ever when this process ends."""

    def __init__(self, name: str, sink: RawIOBase) -> None:
        self._source, self.end = os.pipe()
        self._prefix = f"[{name}] ".encode()
        self._sink = sink
        self._thread = threading.Thread(target=self._follow, name=f"log of {name}", daemon=True)

    def begin(self) -> None:
        """Read from now on, until all that hold the other end are gone."""
        os.close(self.end)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Until all is passed on, at most so long."""
        self._thread.join(seconds)

    def _follow(self) -> None:
        rest = b""
        with open(self._source, "rb", buffering=0) as source:
            while piece := source.read(_LONGEST_BYTES):
                *lines, rest = _LINE_ENDS.split(rest + piece)
                if len(rest) > _LONGEST_BYTES:
                    lines, rest = [*lines, rest], b""
                self._pass_on(lines)
        self._pass_on([rest])

    def _pass_on(self, lines: list[bytes]) -> None:
        text = b"".join(self._prefix + line + b"\n" for line in lines if line)
        with _writing, contextlib.suppress(OSError):
            while text and (written := self._sink.write(text)):
                text = text[written:]
