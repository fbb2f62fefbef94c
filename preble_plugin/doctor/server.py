"""A server, asked over HTTP.

1. `/v1/models` says whether it answers; a router of ours says so at `/health`, and at its
   port of metrics by `/backends`. All else is taken for an engine.
2. An engine is asked as the router asks it (`serve/learning`), and for its version, its
   front door, and its metrics. Its event sockets are tried, and its tokenizer.
3. Nothing that is asked runs the model, unless a probe is wanted. SGLang's `/health` does
   so by default, and is left alone: only what no Python front door of an engine signed is
   asked there.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from preble_plugin.doctor.engine import look_at_engine
from preble_plugin.doctor.engines import python_answers
from preble_plugin.doctor.finding import Finding, Findings
from preble_plugin.doctor.probe import probe
from preble_plugin.doctor.router import look_at_metrics_port, look_at_router
from preble_plugin.serve.backend import Backend
from preble_plugin.serve.config import BackendConfig
from preble_plugin.serve.facts import AskError
from preble_plugin.serve.learning import Answered, HttpAsk

_LATE_SECONDS: Final = 5.0
"""Clocks that differ by less are taken to agree: `Date` has whole seconds."""


class Wanted(msgspec.Struct, frozen=True):
    """What is to be asked, and how."""

    url: str
    key: str | None = None
    """Sent as the bearer's. A secret."""
    tokenizer: str | None = None
    """Directory or name of the tokenizer to compare with; None takes what is named there."""
    probe: bool = False
    """Send a prompt twice."""
    timeout_seconds: float = 5.0
    """For each answer, and for the event sockets."""


async def look_at_server(wanted: Wanted) -> list[Finding]:
    """Findings about the server at `wanted.url`. A few questions, each within the timeout;
    seconds more where a tokenizer is loaded. `wanted.url` is that of a server."""
    findings = Findings(wanted.url)
    backend = Backend(BackendConfig(wanted.url), wanted.key, {})
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), skip_auto_headers=("Accept-Encoding",)
    ) as session:
        ask = backend.ask(session, wanted.timeout_seconds)
        door = await _knock(findings, ask, wanted)
        if door is None:
            return findings.all
        server = door.headers.get("Server", "")
        if not python_answers(server) and await _is_router(findings, ask, door):
            if wanted.probe and door.status == 200:
                await probe(findings, backend, session, None, None)
        elif door.status != 200:
            findings.fail(
                "answers",
                f"/v1/models is answered with {door.status}",
                "give the URL of an OpenAI-compatible server, without /v1; if it is one, see its "
                "log",
            )
        else:
            await look_at_engine(
                findings,
                backend,
                session,
                server=server,
                tokenizer=wanted.tokenizer,
                timeout_seconds=wanted.timeout_seconds,
                wants_probe=wanted.probe,
            )
    return findings.all


async def _knock(findings: Findings, ask: HttpAsk, wanted: Wanted) -> Answered | None:
    """What it answers to the first question; None where that is said to be the end."""
    began = time.time()
    try:
        door = await ask.answer("/v1/models")
    except AskError as error:
        findings.fail("answers", str(error), _unreachable(wanted.url))
        return None
    if door.status in (401, 403):
        findings.fail(
            "answers",
            f"/v1/models is answered with {door.status}: it wants "
            f"{'a key' if wanted.key is None else 'another key'}",
            "name a file with its key: --api-key-file FILE",
        )
        return None
    _clock(findings, door, (began + time.time()) / 2)
    return door


async def _is_router(findings: Findings, ask: HttpAsk, door: Answered) -> bool:
    """Whether it is a router of ours, which is then looked at."""
    ready = _decoded(await _maybe(ask, "/health"))
    if isinstance(ready, dict) and "backends_up" in ready:
        look_at_router(findings, ready)
        return True
    backends = _decoded(await _maybe(ask, "/backends")) if door.status == 404 else None
    if isinstance(backends, list):
        shown = [one for one in backends if isinstance(one, dict)]
        await look_at_metrics_port(findings, ask, shown)
        return True
    return False


def _unreachable(url: str) -> str:
    host = urlsplit(url).hostname
    return (
        f"start it, or mend the address; from another machine than its own it has to listen at "
        f"one that reaches {host} (--host 0.0.0.0), and nothing may stand between"
    )


def _clock(findings: Findings, door: Answered, here: float) -> None:
    try:
        there = parsedate_to_datetime(door.headers.get("Date", "")).timestamp()
    except (ValueError, TypeError):
        findings.warn(
            "clock", "its answers have no date: its clock cannot be told", "see it on its machine"
        )
        return
    ahead = there + 0.5 - here
    if abs(ahead) <= _LATE_SECONDS:
        findings.ok("clock", "agrees with the one here")
    else:
        findings.warn(
            "clock",
            f"is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the one here",
            "set both by NTP; until then the ages of events, in metrics and in `preble status`, "
            "are wrong",
        )


async def _maybe(ask: HttpAsk, path: str) -> bytes:
    """What it answers, whatever its status; nothing where it does not."""
    try:
        return (await ask.answer(path)).body
    except AskError:
        return b""


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
