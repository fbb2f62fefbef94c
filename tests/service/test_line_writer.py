"""Lines get into the file whole, or are counted."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from service_builders import until_sync

from preble_plugin.service.line_writer import WAITING_BYTES, LineWriter

OURS = b'{"t":'
PLENTY = 1_000_000


def line(number: int) -> bytes:
    return b'{"t":%d}\n' % number


def put(writer: LineWriter, *numbers: int) -> None:
    for number in numbers:
        writer.put(lambda number=number: line(number), 100)  # type: ignore[misc]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lines.jsonl"


@pytest.fixture
def writer(path: Path) -> Iterator[LineWriter]:
    """A writer to `path`, started."""
    writer = LineWriter(path, OURS, PLENTY)
    writer.start()
    yield writer
    writer.close()


def written(path: Path, *numbers: int, most_bytes: int = PLENTY) -> LineWriter:
    """A writer that has written these and was closed."""
    writer = LineWriter(path, OURS, most_bytes)
    put(writer, *numbers)
    writer.start()
    writer.close()
    return writer


def test_lines_stand_in_the_file_in_order_for_its_user_alone(path: Path) -> None:
    assert written(path, 1, 2, 3).written == 3
    assert path.read_bytes() == line(1) + line(2) + line(3)
    assert path.stat().st_mode & 0o777 == 0o600


def test_they_are_there_while_the_writer_goes_on(writer: LineWriter, path: Path) -> None:
    put(writer, 1)
    until_sync(path.exists)
    until_sync(lambda: path.read_bytes() == line(1))
    put(writer, 2)
    until_sync(lambda: path.read_bytes() == line(1) + line(2))


def test_what_stands_there_stays(path: Path) -> None:
    written(path, 1)
    written(path, 2)
    assert path.read_bytes() == line(1) + line(2)


def test_a_closed_writer_can_start_again(path: Path) -> None:
    writer = written(path, 1)
    put(writer, 2)
    writer.start()
    writer.start()
    writer.close()
    writer.close()
    assert (writer.written, path.read_bytes()) == (2, line(1) + line(2))


@pytest.mark.parametrize("torn", [b'{"t":12', b"{"])
def test_a_line_that_a_killed_process_left_torn_is_cut_off(path: Path, torn: bytes) -> None:
    path.write_bytes(line(1) + torn)
    written(path, 2)
    assert path.read_bytes() == line(1) + line(2)


@pytest.mark.parametrize("text", [b"my notes", b'{"t":1}\nmy notes'])
def test_a_file_that_is_not_ours_is_left_alone(
    path: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(text)
    assert (written(path, 1, 2).failed, path.read_bytes()) == (2, text)
    assert "does not end with a line feed" in caplog.text


def test_what_comes_faster_than_it_is_written_is_dropped_and_counted(path: Path) -> None:
    writer = LineWriter(path, OURS, PLENTY)
    for number in range(4):
        writer.put(lambda number=number: line(number), WAITING_BYTES // 2)  # type: ignore[misc]
    writer.start()
    writer.close()
    assert (writer.written, writer.dropped) == (2, 2)
    assert path.read_bytes() == line(0) + line(1)
    put(writer, 4)
    writer.start()
    writer.close()
    assert (writer.written, writer.dropped) == (3, 2)


def test_a_file_that_cannot_be_opened_is_said_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = LineWriter(tmp_path / "nowhere" / "x.jsonl", OURS, PLENTY)
    writer.start()
    for failed in (1, 2):
        put(writer, failed)
        until_sync(lambda failed=failed: writer.failed == failed)  # type: ignore[misc]
    writer.close()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "No such file or directory" in caplog.text


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert written(tmp_path, 1).failed == 1


def test_a_line_that_cannot_be_made_costs_no_other(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = LineWriter(path, OURS, PLENTY)
    put(writer, 1)
    writer.put(lambda: "\ud800".encode(), 100)
    put(writer, 2)
    writer.start()
    writer.close()
    assert (writer.written, writer.failed) == (2, 1)
    assert path.read_bytes() == line(1) + line(2)
    assert "UnicodeEncodeError" in caplog.text


def test_a_full_file_is_said_once_and_takes_no_more(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = written(path, 1, 2, 3, most_bytes=2 * len(line(1)) + 3)
    assert (writer.full, writer.written, path.read_bytes()) == (True, 2, line(1) + line(2))
    put(writer, 4)
    writer.start()
    writer.close()
    assert path.read_bytes() == line(1) + line(2)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "record_megabytes" in caplog.text


def test_what_stands_there_counts_towards_the_bound(path: Path) -> None:
    path.write_bytes(line(1))
    writer = written(path, 2, 3, most_bytes=2 * len(line(1)))
    assert (writer.full, path.read_bytes()) == (True, line(1) + line(2))


SCRIPT = """
import resource, sys
from pathlib import Path
from preble_plugin.service.line_writer import LineWriter
path = Path(sys.argv[1])
writer = LineWriter(path, b'{"t":', 1_000_000)
def put(number):
    writer.put(lambda: b'{"t":%d}\\n' % number, 100)
"""


def run(path: Path, code: str) -> str:
    """What a process of its own prints that begins as `SCRIPT` does."""
    command = [sys.executable, "-c", SCRIPT + code, str(path)]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()


def test_a_write_that_fails_leaves_whole_lines(path: Path) -> None:
    """The disk takes 12 bytes, then more."""
    said = run(
        path,
        "put(1); put(2)\n"
        "hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (12, hard))\n"
        "writer.start(); writer.close(); print(writer.failed, path.read_bytes())\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))\n"
        "put(3); writer.start(); writer.close(); print(writer.written)\n",
    )
    assert said == "2 b''\n1\n"
    assert path.read_bytes() == line(3)


def test_the_interpreter_does_not_end_before_they_are_written(path: Path) -> None:
    run(path, "writer.start(); put(1)\n")
    assert path.read_bytes() == line(1)
