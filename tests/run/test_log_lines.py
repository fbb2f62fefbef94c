"""What children write, with their names in front."""

from __future__ import annotations

import io
import os
from typing import Any

import pytest

from preble_plugin.run.log_lines import Lines


class Sink(io.RawIOBase):
    """Takes so many bytes at a time."""

    def __init__(self, most: int = 1 << 20) -> None:
        self.taken = b""
        self._most = most

    def write(self, data: Any) -> int:
        taken = bytes(data[: self._most])
        self.taken += taken
        return len(taken)


def passed_on(*pieces: bytes, sink: Sink | None = None) -> bytes:
    """What comes out of what a child writes piece by piece."""
    found = Sink() if sink is None else sink
    lines = Lines("one", found)
    end = os.dup(lines.end)
    lines.begin()
    for piece in pieces:
        os.write(end, piece)
    os.close(end)
    lines.wait(30)
    return found.taken


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ([b"a\nb\n"], b"[one] a\n[one] b\n"),
        ([b"a", b"b\n", b"c"], b"[one] ab\n[one] c\n"),
        ([b"1%\r2%\r\n"], b"[one] 1%\n[one] 2%\n"),
        ([b"\xff\n\n"], b"[one] \xff\n"),
        ([], b""),
    ],
)
def test_each_line_gets_the_name(written: list[bytes], seen: bytes) -> None:
    assert passed_on(*written) == seen


def test_a_reader_that_takes_little_gets_all() -> None:
    assert passed_on(b"abc\ndef\n", sink=Sink(most=3)) == b"[one] abc\n[one] def\n"


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    pieces = [b"x" * (1 << 15)] * 16
    seen = passed_on(*pieces)
    assert seen.count(b"[one] ") > 1
    assert seen.count(b"x") == sum(map(len, pieces))


def test_a_child_goes_on_when_nobody_reads_us() -> None:
    class Gone(Sink):
        def write(self, _: Any) -> int:
            raise BrokenPipeError

    # More than a pipe holds: it would never end if nobody took it.
    assert passed_on(*[b"x\n" * 10_000] * 20, sink=Gone()) == b""
