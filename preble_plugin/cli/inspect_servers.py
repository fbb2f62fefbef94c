"""`preble status` and `preble explain`: ask the running servers and print.

1. The servers are those of this user's run directory that live, or the one at
   `--socket`. All are asked; one that does not answer is named.
2. Tables are for people, `--json` is for scripts.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from preble_plugin.cli.tables import receipt_table, status_table
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
from preble_plugin.service.run_dir import ADMIN_SOCKET, base_directory, living_servers


def status(*, socket: Path | None, as_json: bool) -> int:
    """Print how the servers stand. Raises `AdminSocketError`, `RunDirError`."""
    answers = _ask_all(socket, StatusQuestion())
    for path, answer in answers:
        if as_json:
            print(msgspec.json.encode({"socket": str(path), "status": answer}).decode())
        elif isinstance(answer, ServiceStatus):
            print(status_table(path, answer))
    return 0


def explain(request_id: str, *, socket: Path | None, as_json: bool) -> int:
    """Print the decisions for a request. Raises `AdminSocketError`, `RunDirError`."""
    answers = _ask_all(socket, ExplainQuestion(request_id))
    found = [
        receipt
        for _, answer in answers
        if isinstance(answer, Explanation)
        for receipt in answer.receipts
    ]
    if not found:
        raise AdminSocketError(
            f"no decision is kept for request {request_id!r} on {len(answers)} server(s): it was "
            "not placed by preble, or it fell out of the last ones (setting 'receipts')"
        )
    for receipt in found:
        print(msgspec.json.encode(receipt).decode() if as_json else receipt_table(receipt))
    return 0


def _ask_all(socket: Path | None, question: Question) -> list[tuple[Path, Answer]]:
    """Each server's answer; those without one are named on stderr."""
    paths = [socket] if socket else [path / ADMIN_SOCKET for path in living_servers()]
    if not paths:
        raise AdminSocketError(
            f"no server of this user runs with preble (looked in {base_directory()}; "
            "--socket PATH asks one elsewhere)"
        )
    answers: list[tuple[Path, Answer]] = []
    failures: list[str] = []
    for path in paths:
        try:
            answers.append((path, ask(path, question)))
        except AdminSocketError as error:
            failures.append(str(error))
    if not answers:
        raise AdminSocketError("; ".join(failures))
    for failure in failures:
        print(f"preble: {failure}", file=sys.stderr)
    return answers
