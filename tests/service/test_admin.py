from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import time
from pathlib import Path

import pytest
from service_builders import document, placed, replica

from preble_plugin.core import Finished, FirstToken
from preble_plugin.service.admin import (
    AdminSocketError,
    Answer,
    ExplainQuestion,
    Explanation,
    Question,
    ServiceStatus,
    StatusQuestion,
    ask,
)
from preble_plugin.service.local import LocalFrontend
from preble_plugin.service.remote import RemoteFrontend
from preble_plugin.service.run_dir import ADMIN_SOCKET, living_servers
from preble_plugin.settings import Settings


async def asked(question: Question, path: Path | None = None) -> Answer:
    """The answer of the one server there is, asked from another thread."""
    where = path if path is not None else living_servers()[0] / ADMIN_SOCKET
    return await asyncio.to_thread(ask, where, question)


async def test_a_request_is_explained_by_either_id(local: LocalFrontend) -> None:
    placement = await placed(local, "r1", document(1))
    now = time.monotonic()
    local.observe(placement.replica, [FirstToken("r1", 0), Finished("r1", 4)], now)
    by_client = await asked(ExplainQuestion("client-r1"))
    assert by_client == await asked(ExplainQuestion("r1"))
    assert isinstance(by_client, Explanation)
    (receipt,) = by_client.receipts
    assert (receipt.replica, receipt.actual_cached_tokens, receipt.finish) == (
        placement.replica,
        0,
        "finished",
    )
    assert len(receipt.candidates) == 2


async def test_an_unknown_request_has_no_explanation(local: LocalFrontend) -> None:
    assert await asked(ExplainQuestion("nobody")) == Explanation([])


async def test_the_status_tells_who_answers(local: LocalFrontend) -> None:
    status = await asked(StatusQuestion())
    assert isinstance(status, ServiceStatus)
    assert (status.pid, status.role, status.front_ends) == (os.getpid(), "front end", 1)


async def test_a_front_end_without_replicas_has_a_status(run_dir: Path) -> None:
    frontend = LocalFrontend(Settings())
    await frontend.start()
    status = await asked(StatusQuestion())
    assert isinstance(status, ServiceStatus)
    assert status.scheduler is None
    await frontend.close()


async def test_the_scheduler_process_answers(remote: RemoteFrontend) -> None:
    await placed(remote, "r1", document(1))
    status = await asked(StatusQuestion())
    assert isinstance(status, ServiceStatus)
    assert (status.role, status.front_ends) == ("scheduler process", 1)
    explanation = await asked(ExplainQuestion("r1"))
    assert isinstance(explanation, Explanation)
    assert len(explanation.receipts) == 1


async def test_the_socket_is_the_users_alone(local: LocalFrontend) -> None:
    path = living_servers()[0] / ADMIN_SOCKET
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("line", [b"nonsense\n", b"{}\n", b'{"ask": "delete"}\n', b"\xff\n"])
async def test_what_is_no_question_is_answered_with_an_error(
    local: LocalFrontend, line: bytes
) -> None:
    reader, writer = await asyncio.open_unix_connection(living_servers()[0] / ADMIN_SOCKET)
    writer.write(line)
    assert b'"answer":"error"' in await reader.readline()
    writer.close()


async def test_an_endless_line_ends_the_conversation_only(local: LocalFrontend) -> None:
    reader, writer = await asyncio.open_unix_connection(living_servers()[0] / ADMIN_SOCKET)
    writer.write(b"x" * 1_000_000)
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    assert isinstance(await asked(StatusQuestion()), ServiceStatus)


async def test_a_path_from_the_settings_is_used_and_found(run_dir: Path) -> None:
    path = run_dir / "elsewhere.sock"
    frontend = LocalFrontend(Settings(admin_socket=str(path)))
    await frontend.start()
    assert isinstance(await asked(StatusQuestion(), path), ServiceStatus)
    assert isinstance(await asked(StatusQuestion()), ServiceStatus)
    await frontend.close()
    assert not path.exists()


async def test_a_stale_socket_is_replaced(run_dir: Path) -> None:
    path = run_dir / "stale.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    frontend = LocalFrontend(Settings(admin_socket=str(path)))
    await frontend.start()
    assert isinstance(await asked(StatusQuestion(), path), ServiceStatus)
    await frontend.close()


async def test_a_living_servers_socket_is_left_alone(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(admin_socket=str(run_dir / "one.sock"))
    first, second = LocalFrontend(settings), LocalFrontend(settings)
    first.set_replicas([replica(0)])
    await first.start()
    await second.start()
    assert "another server answers there" in caplog.text
    await second.close()
    status = await asked(StatusQuestion(), run_dir / "one.sock")
    assert isinstance(status, ServiceStatus)
    assert status.scheduler is not None
    await first.close()


async def test_a_file_of_another_kind_is_left_alone(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run_dir / "file").write_text("mine")
    frontend = LocalFrontend(Settings(admin_socket=str(run_dir / "file")))
    frontend.set_replicas([replica(0)])
    await frontend.start()
    await placed(frontend, "r1", document(1))
    await frontend.close()
    assert "a file of another kind is there" in caplog.text
    assert (run_dir / "file").read_text() == "mine"


def test_nobody_answers_at_a_socket_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(AdminSocketError, match="no server answers at"):
        ask(tmp_path / "none.sock", StatusQuestion())
