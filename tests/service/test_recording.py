"""One line for each request that ended, and what it says."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from service_builders import (
    document,
    hasher_of,
    replica,
    request,
)

from preble_plugin.core import Finished, FirstToken, Placement, Request
from preble_plugin.core.status import RecordingStatus
from preble_plugin.service import messages
from preble_plugin.service.front_desk import FrontDesk
from preble_plugin.service.interface import Frontend
from preble_plugin.service.local import LocalFrontend
from preble_plugin.service.scheduler_host import SchedulerHost
from preble_plugin.settings import Settings
from preble_plugin.sim.trace import read_trace


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recording.jsonl"


@pytest.fixture
def host(path: Path) -> SchedulerHost:
    """A scheduler of replicas 0 and 1 that records; its clock stands at 100 s."""
    host = SchedulerHost(Settings(record=str(path)))
    host.clock = lambda: 100.0
    host.set_replicas([replica(0), replica(1)])
    return host


def ask(host: SchedulerHost, name: str, number: int = 1, **fields: Any) -> Request:
    assert host.hasher is not None
    asked = request(host.hasher, name, document(number))
    return msgspec.structs.replace(asked, **fields)


def placed(host: SchedulerHost, name: str, number: int = 1) -> Placement:
    answer = host.place(ask(host, name, number))
    assert isinstance(answer, Placement)
    return answer


def written(host: SchedulerHost) -> None:
    """Have what has ended written."""

    async def run() -> None:
        await host.start()
        await host.close()

    asyncio.run(run())


def lines(host: SchedulerHost, path: Path) -> list[dict[str, Any]]:
    """The recording as it stands then."""
    written(host)
    return [json.loads(text) for text in path.read_bytes().splitlines()] if path.exists() else []


def recording_of(frontend: Frontend) -> RecordingStatus | None:
    status = frontend.status()
    return status.recording if status is not None else None


# -- what a line says --------------------------------------------------------------------


def test_a_line_says_where_it_ran_and_what_was_cached(host: SchedulerHost, path: Path) -> None:
    rank = placed(host, "r1").replica
    host.observe(rank, [FirstToken("r1", 64)], 100.25)
    host.observe(rank, [Finished("r1", 7)], 101.5)
    (line,) = lines(host, path)
    assert abs(line["timestamp"] / 1000 - (time.time() - time.monotonic() + 100.0)) < 1.0
    said = ("replica", "cached_tokens", "first_token_ms", "ended_ms", "output_length")
    assert [line[name] for name in said] == [rank, 64, 250.0, 1500.0, 7]
    assert (line["max_output_tokens"], "aborted" in line) == (8, False)


def test_a_request_that_moves_keeps_its_time(host: SchedulerHost, path: Path) -> None:
    rank = placed(host, "r1").replica
    host.clock = lambda: 103.0
    host.dispatched(ask(host, "r1"), 1 - int(rank))
    host.observe(rank, [FirstToken("r1", 0), Finished("r1", 0, aborted=True)], 103.5)
    host.observe(1 - int(rank), [Finished("r1", 1)], 104.0)
    (line,) = lines(host, path)
    assert (line["replica"], line["ended_ms"]) == (1 - int(rank), 4000.0)


@pytest.mark.parametrize(
    ("end", "said", "replayed"),
    [
        (Finished("r1", 3, aborted=True), (3, True), 1),
        (Finished("r1", 0, aborted=True), (0, True), 0),
        (Finished("r1", 0), (1, None), 1),
    ],
)
def test_an_abort_has_the_tokens_it_had_and_pooling_counts_as_one(
    host: SchedulerHost, path: Path, end: Finished, said: tuple[int, bool], replayed: int
) -> None:
    host.observe(placed(host, "r1").replica, [end], 101.0)
    (line,) = lines(host, path)
    assert (line["output_length"], line.get("aborted")) == said
    assert len(read_trace(path)) == replayed


def test_ids_may_come_again(host: SchedulerHost, path: Path) -> None:
    for at in (100.0, 200.0):
        host.clock = lambda at=at: at  # type: ignore[misc]
        host.observe(placed(host, "r1").replica, [Finished("r1", 1)], at + 1)
    lines(host, path)
    assert len({one.request_id for one in read_trace(path)}) == 2


def test_the_path_may_hold_the_process(tmp_path: Path) -> None:
    host = SchedulerHost(Settings(record=f"{tmp_path}/of-{{pid}}.jsonl"))
    host.set_replicas([replica(0)])
    host.observe(placed(host, "r1").replica, [Finished("r1", 1)], host.clock())
    assert len(lines(host, tmp_path / f"of-{os.getpid()}.jsonl")) == 1


# -- ends that nobody told ---------------------------------------------------------------


def _withdrawn(host: SchedulerHost) -> None:
    host.withdraw("r1", 0)


def _replica_gone(host: SchedulerHost) -> None:
    host.set_replicas([])


def _started_before(host: SchedulerHost) -> None:
    host.withdraw("r1", 0)
    host.dispatched(ask(host, "r1"), 0, started=True)


@pytest.mark.parametrize("happens", [_withdrawn, _replica_gone, _started_before])
def test_a_request_whose_end_or_beginning_nobody_told_has_no_line(
    host: SchedulerHost, path: Path, happens: Callable[[SchedulerHost], None]
) -> None:
    rank = placed(host, "r1").replica
    happens(host)
    host.observe(rank, [Finished("r1", 5)], 101.0)
    assert lines(host, path) == []


def test_a_placement_that_came_too_late_and_what_went_instead_are_one_line(
    host: SchedulerHost, path: Path
) -> None:
    desk = FrontDesk(host, b"instance")

    def hear(*said: messages.FromFrontEnd) -> None:
        for message in said:
            desk.hear(b"a", messages.encoder.encode(message), 100.0)

    hear(messages.Hello(1, [replica(0), replica(1)]))
    asked = ask(host, "r1")
    hear(messages.Place(1, asked), messages.Withdrawn("r1"), messages.Dispatched(asked, 1))
    hear(messages.Observed(1, [Finished("r1", 5)], 101.0))
    assert [(line["replica"], line["output_length"]) for line in lines(host, path)] == [(1, 5)]


def test_a_prompt_of_no_tokens_has_no_line(host: SchedulerHost, path: Path) -> None:
    host.dispatched(ask(host, "r1", keys=b"", prompt_tokens=0), 0)
    host.observe(0, [Finished("r1", 5)], 101.0)
    assert lines(host, path) == []


# -- faults ------------------------------------------------------------------------------


async def test_a_recording_that_cannot_be_written_costs_no_placement(
    run_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = f"{tmp_path}/nowhere/x.jsonl"
    frontend = LocalFrontend(Settings(record=path))
    frontend.set_replicas([replica(0)])
    await frontend.start()
    for name in ("r1", "r2"):
        assert isinstance(
            frontend.place_now(request(hasher_of(frontend), name, document(1))), Placement
        )
        frontend.observe(0, [Finished(name, 1)], time.monotonic())
    await frontend.close()
    assert (recording_of(frontend), frontend.dropped) == (RecordingStatus(path, failed=2), 0)
    assert [one.levelno for one in caplog.records] == [logging.ERROR]


def test_a_full_recording_keeps_nothing_of_the_requests_that_follow(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(b" " * 999_999 + b"\n")
    host = SchedulerHost(Settings(record=str(path), record_megabytes=1))
    host.set_replicas([replica(0)])
    for name in ("r1", "r2"):
        host.observe(placed(host, name).replica, [Finished(name, 1)], host.clock())
        written(host)
    status = host.status()
    assert status is not None
    assert status.recording == RecordingStatus(str(path), full=True)
    assert (path.stat().st_size, len(caplog.records)) == (1_000_000, 1)
