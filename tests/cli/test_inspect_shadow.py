"""`preble status` and `preble explain` beside a server in shadow mode that records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from preble_plugin.cli.main import main
from preble_plugin.core import Finished, FirstToken, Placement, Request
from preble_plugin.service.interface import ReplicaSpec
from preble_plugin.service.local import LocalFrontend
from preble_plugin.settings import Settings

PROMPT = range(64)


@pytest.fixture
async def server(run_dir: Path, tmp_path: Path) -> AsyncIterator[LocalFrontend]:
    """A server with two replicas, of which replica 1 has served `PROMPT`, and to which its
    own dispatch has then sent `PROMPT` twice: to 0 and to 1."""
    frontend = LocalFrontend(Settings(shadow=True, record=str(tmp_path / "asked.jsonl")))
    frontend.set_replicas([ReplicaSpec(rank, 16, capacity_blocks=100) for rank in (0, 1)])
    await frontend.start()
    hasher = frontend.hasher
    assert hasher is not None
    keys = hasher.prompt_keys(PROMPT)
    fixed = await frontend.place(Request("r0", keys, 65, fixed_replica=1))
    assert isinstance(fixed, Placement)
    frontend.observe(1, [FirstToken("r0", 0), Finished("r0", 5)], time.monotonic())
    for name, rank in (("r1", 0), ("r2", 1)):
        frontend.dispatched(Request(name, keys, 65), rank, shadow=True)
    yield frontend
    await frontend.close()


async def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The lines that the command prints beside the server's loop."""
    assert await asyncio.to_thread(main, arguments) == 0
    return capsys.readouterr().out.splitlines()


async def test_status_says_that_it_is_shadow_and_adds_both_sides_up(
    server: LocalFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = await printed(capsys, "status")
    assert (
        "shadow mode: the engine's own dispatch sends the requests; preble would have sent "
        "1 of 2 elsewhere"
    ) in lines
    assert (
        "cached, as predicted, of 130 prompt tokens: 128 where preble would have sent them, "
        "64 where they went; 64 avoidable"
    ) in lines


async def test_status_shows_the_recording(
    server: LocalFrontend, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = await printed(capsys, "status")
    assert f"recording {tmp_path}/asked.jsonl: 0 requests, 0 dropped, 0 failed" in lines


async def test_explain_shows_what_was_done_and_what_would_have_been(
    server: LocalFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = await printed(capsys, "explain", "r1")
    assert "went to   replica 0 by engine (policy e2)" in lines
    assert (
        "would be  replica 1 by exploit, 64 cached predicted (shadow mode: not acted on)"
    ) in lines
    marks = [line.split()[:3] for line in lines if line.startswith(("->", "would  "))]
    assert marks == [["->", "0", "0"], ["would", "1", "64"]]


async def test_of_a_placed_request_explain_says_nothing_of_shadow(
    server: LocalFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = await printed(capsys, "explain", "r0")
    assert "went to   replica 1 by fixed (policy e2)" in lines
    assert not [line for line in lines if line.startswith("would")]
