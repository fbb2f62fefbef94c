"""The admin socket: `preble status` and `preble explain` ask a living server.

1. A unix socket in the server's directory (or `Settings.admin_socket`), mode
   0600. One question a line in JSON, one answer a line.
2. It reads only; nothing that it is asked changes a placement.
3. A socket file that nobody answers at is left over from a dead server and is
   replaced; one that is answered at, and a file of another kind, are not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from preble_plugin.core.receipts import Receipt
from preble_plugin.core.status import SchedulerStatus
from preble_plugin.service.run_dir import ADMIN_SOCKET, check_socket_path

_LONGEST_LINE: Final = 64 << 10
_IDLE_SECONDS: Final = 30.0


class AdminSocketError(RuntimeError):
    """The admin socket cannot be opened, or nobody answers at it."""


class StatusQuestion(msgspec.Struct, tag_field="ask", tag="status", forbid_unknown_fields=True):
    """How does the server stand?"""


class ExplainQuestion(msgspec.Struct, tag_field="ask", tag="explain", forbid_unknown_fields=True):
    """Why did the request go where it went?"""

    request_id: str
    """The engine's id, or the one the client knows."""


class ServiceStatus(msgspec.Struct, tag_field="answer", tag="status", omit_defaults=True):
    """A server as a whole."""

    pid: int
    role: Literal["scheduler process", "front end"]
    scheduler: SchedulerStatus | None
    """None until a front end has stated its replicas."""
    front_ends: int
    bad_messages: int = 0
    """Messages on the scheduler's socket that could not be read."""
    errors: int = 0
    """Faults of our own while scheduling."""


class Explanation(msgspec.Struct, tag_field="answer", tag="explanation"):
    """The decisions kept for a request, oldest first; empty if there are none."""

    receipts: list[Receipt]


class Misunderstood(msgspec.Struct, tag_field="answer", tag="error"):
    """The question was not one."""

    error: str


Question: TypeAlias = StatusQuestion | ExplainQuestion
Answer: TypeAlias = ServiceStatus | Explanation | Misunderstood

_question_decoder: msgspec.json.Decoder[Question] = msgspec.json.Decoder(Question)
_answer_decoder: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


class AdminSocket:
    """Answers at `path` in the running loop, until closed.

    Where the settings name a path outside the server's directory, a link there
    lets the command line find it.
    """

    def __init__(
        self,
        directory: Path,
        custom_path: str | None,
        status: Callable[[], ServiceStatus],
        explain: Callable[[str], list[Receipt]],
    ) -> None:
        self.path = Path(custom_path) if custom_path else directory / ADMIN_SOCKET
        self._link = directory / ADMIN_SOCKET if custom_path else None
        self._status = status
        self._explain = explain
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen. Raises `AdminSocketError` or `RunDirError`."""
        check_socket_path(self.path)
        _remove_stale(self.path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(listening.fileno(), 0o600)
            listening.bind(str(self.path))
            self.path.chmod(0o600)
        except OSError as error:
            listening.close()
            raise AdminSocketError(f"admin socket {self.path}: {error.strerror}") from error
        self._server = await asyncio.start_unix_server(
            self._converse, sock=listening, limit=_LONGEST_LINE
        )
        if self._link is not None:
            self._link.unlink(missing_ok=True)
            self._link.symlink_to(self.path)

    async def close(self) -> None:
        """Stop listening and remove the socket; idempotent."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for path in (self.path, self._link):
            if path is not None:
                path.unlink(missing_ok=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await asyncio.wait_for(reader.readline(), _IDLE_SECONDS):
                writer.write(msgspec.json.encode(self._answer(line)) + b"\n")
                await asyncio.wait_for(writer.drain(), _IDLE_SECONDS)
        except (TimeoutError, ConnectionError, ValueError):
            pass  # idle, gone, or a line beyond all bounds
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, OSError):
                await writer.wait_closed()

    def _answer(self, line: bytes) -> Answer:
        try:
            question = _question_decoder.decode(line)
            if isinstance(question, ExplainQuestion):
                return Explanation(self._explain(question.request_id))
            return self._status()
        except Exception as error:
            return Misunderstood(f"{type(error).__name__}: {error}")


def ask(path: Path, question: Question, timeout_seconds: float = 5.0) -> Answer:
    """Ask the server at `path` and wait for its answer.

    Raises `AdminSocketError` where nobody answers.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(timeout_seconds)
            client.connect(str(path))
            client.sendall(msgspec.json.encode(question) + b"\n")
            with client.makefile("rb") as lines:
                line = lines.readline()
        return _answer_decoder.decode(line)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise AdminSocketError(f"no server answers at {path}") from error
    except (OSError, msgspec.DecodeError) as error:
        raise AdminSocketError(f"the server at {path} does not answer: {error}") from error


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise AdminSocketError(f"admin socket {path}: a file of another kind is there; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise AdminSocketError(f"admin socket {path}: {error.strerror}") from error
    raise AdminSocketError(
        f"admin socket {path}: another server answers there; give each server its own admin_socket"
    )
