from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from preble_plugin.cli.main import main
from preble_plugin.core import Finished, FirstToken, LoadReport, Placement, Request
from preble_plugin.service.interface import ReplicaSpec
from preble_plugin.service.local import LocalFrontend
from preble_plugin.settings import Settings


@pytest.fixture
async def server(run_dir: Path) -> AsyncIterator[LocalFrontend]:
    """A server with two replicas that has served request `client-1`."""
    frontend = LocalFrontend(Settings())
    frontend.set_replicas([ReplicaSpec(rank, 16, capacity_blocks=100) for rank in (0, 1)])
    await frontend.start()
    hasher = frontend.hasher
    assert hasher is not None
    request = Request("r1", hasher.prompt_keys(range(64)), 65, external_id="client-1")
    placement = await frontend.place(request)
    assert isinstance(placement, Placement)
    outcomes = [FirstToken("r1", 48), Finished("r1", 5)]
    frontend.observe(placement.replica, outcomes, time.monotonic())
    yield frontend
    await frontend.close()


async def preble(*arguments: str) -> int:
    """Run the command beside the server's loop."""
    return await asyncio.to_thread(main, arguments)


async def test_explain_shows_the_decision(
    server: LocalFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await preble("explain", "client-1") == 0
    out = capsys.readouterr().out
    assert "request   client-1 (r1)" in out
    assert "cached    0 predicted, 48 actual" in out
    assert "finished" in out
    assert "5 output tokens" in out
    table = out.splitlines()[6:]
    assert table[0].split() == [
        *("replica", "hit", "L", "ms", "M", "ms", "P", "ms", "L+M+P", "ms", "in", "flight", "trust")
    ]
    assert sorted(line.split()[-1] for line in table[1:3]) == ["silent", "silent"]
    assert sum(line.startswith("->") for line in table) == 1
    assert "L prefill that waits there" in out


async def test_explain_says_how_many_replicas_it_does_not_list(
    server: LocalFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    server.set_replicas([ReplicaSpec(rank, 16, capacity_blocks=100) for rank in range(40)])
    hasher = server.hasher
    assert hasher is not None
    fixed = Request("r2", hasher.prompt_keys(range(1000, 1064)), 65, fixed_replica=30)
    await server.place(fixed)
    assert await preble("explain", "r2") == 0
    assert "39 more replicas are not listed" in capsys.readouterr().out


async def test_explain_as_json_is_the_receipt(
    server: LocalFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await preble("explain", "r1", "--json") == 0
    receipt = json.loads(capsys.readouterr().out)
    assert receipt["external_id"] == "client-1"
    assert receipt["actual_cached_tokens"] == 48


async def test_explain_of_an_unknown_request_fails_with_the_reason(
    server: LocalFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await preble("explain", "nobody") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "preble: no decision is kept for request 'nobody' on 1 server(s)" in printed.err


async def test_status_counts_the_requests_whose_ends_were_lost(
    server: LocalFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    hasher = server.hasher
    assert hasher is not None
    await server.place(Request("r2", hasher.prompt_keys(range(64)), 65, fixed_replica=0))
    for seconds in (2, 4):
        server.report(0, LoadReport(time.monotonic() + seconds, 0, 0))
    assert await preble("status") == 0
    assert "1 lost requests" in capsys.readouterr().out


async def test_status_shows_the_replicas(
    server: LocalFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await preble("status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("server ")
    assert "policy e2, block size 16 tokens, 1 placements, 0 in flight" in lines[1]
    assert [line.split()[:2] for line in lines[4:6]] == [["0", "silent"], ["1", "silent"]]


async def test_status_as_json_is_one_server_a_line(
    server: LocalFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    second = LocalFrontend(Settings())
    await second.start()
    assert await preble("status", "--json") == 0
    servers = [json.loads(line)["status"] for line in capsys.readouterr().out.splitlines()]
    await second.close()
    assert sorted((one["scheduler"] or {}).get("placements", -1) for one in servers) == [-1, 1]


async def test_of_several_servers_the_one_that_knows_explains(
    server: LocalFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    second = LocalFrontend(Settings())
    await second.start()
    assert await preble("explain", "client-1") == 0
    await second.close()
    assert capsys.readouterr().out.count("client-1") == 1


async def test_a_server_before_its_replicas_says_so(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frontend = LocalFrontend(Settings())
    await frontend.start()
    assert await preble("status") == 0
    await frontend.close()
    assert "no replicas yet" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["status"], ["explain", "x"]])
def test_without_a_server_it_fails_and_says_where_it_looked(
    run_dir: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert main(command) == 1
    assert f"no server of this user runs with preble (looked in {run_dir}" in (
        capsys.readouterr().err
    )


def test_a_socket_that_nobody_answers_at_fails_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--socket", str(tmp_path / "x.sock")]) == 1
    assert f"no server answers at {tmp_path}/x.sock" in capsys.readouterr().err


def test_a_run_directory_that_cannot_be_trusted_fails_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("PREBLE_RUN_DIR", str(tmp_path / "open"))
    assert main(["status"]) == 1
    assert "set PREBLE_RUN_DIR to a directory of your own" in capsys.readouterr().err


def test_a_command_is_needed() -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
