"""What a router in front needs of an engine: events it can read, and tokens it can make.

1. Where the engine says that it publishes, its sockets are tried from here.
2. A tokenizer here is compared with the server's own, as the router does at start.
3. Where placement is on inside, the server reads its own events: what a router would miss
   then only warns.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import zmq

from preble_plugin.doctor.engines import Engine
from preble_plugin.doctor.event_sockets import Reached, reach
from preble_plugin.doctor.finding import Findings
from preble_plugin.serve.facts import Ask, Facts
from preble_plugin.serve.learning import DIALECTS
from preble_plugin.serve.prompts import Prompts
from preble_plugin.serve.tokenizer import TokenizerError, load_tokenizer
from preble_plugin.service.interface import EventSource

_CACHE_BYTES: Final = 1 << 20
_OPEN: Final = (
    "open these ports between here and there, and see that the engine still runs; across "
    "networks, publish at an address that both know"
)


async def look_at_events(
    findings: Findings, engine: Engine | None, facts: Facts, is_on: bool, seconds: float
) -> None:
    """Add where it publishes, and whether that can be read from here: at most `seconds`."""
    worse = findings.warn if is_on else findings.fail
    sources = {rank: one for rank, one in enumerate(facts.events) if one is not None}
    elsewhere = [remark for remark in facts.remarks if remark.startswith("rank ")]
    if is_on and not sources:
        findings.ok("event sources", "none for readers here: the server reads its own")
        return
    if elsewhere:
        more = f" (and {len(elsewhere) - 1} more)" if len(elsewhere) > 1 else ""
        worse("event sources", elsewhere[0] + more, "publish at tcp://*:PORT")
    elif len(sources) < facts.ranks:
        words = "it names none" if not sources else f"{facts.ranks - len(sources)} ranks name none"
        remedy = engine.events if engine is not None else "none is known for such an engine"
        findings.warn("event sources", f"{words}: no cache events are published", remedy)
    if not sources:
        return
    try:
        reached = await asyncio.to_thread(reach, list(sources.values()), seconds)
    except zmq.ZMQError as error:
        worse("event sources", f"no connection: {error}{_inside(is_on)}", "mend their addresses")
        return
    by_rank = dict(zip(sources, reached, strict=True))
    _live(findings, sources, by_rank, is_on, seconds)
    _replay(findings, sources, by_rank, is_on, seconds)


def _live(
    findings: Findings,
    sources: dict[int, EventSource],
    by_rank: dict[int, Reached],
    is_on: bool,
    seconds: float,
) -> None:
    dead = [f"{rank} at {sources[rank].endpoint}" for rank, one in by_rank.items() if not one.live]
    if dead:
        worse = findings.warn if is_on else findings.fail
        words = f"no publisher answers in {seconds:g} s: rank {', '.join(dead)}"
        worse("event sources", words + _inside(is_on), _OPEN)
    else:
        findings.ok("event sources", f"connected to all {len(by_rank)}")


def _replay(
    findings: Findings,
    sources: dict[int, EventSource],
    by_rank: dict[int, Reached],
    is_on: bool,
    seconds: float,
) -> None:
    bare = sum(one.replay is None for one in by_rank.values())
    mute = [
        f"{rank} at {sources[rank].replay_endpoint}"
        for rank, one in by_rank.items()
        if one.replay is False
    ]
    if mute:
        worse = findings.warn if is_on else findings.fail
        words = f"not answered in {seconds:g} s: rank {', '.join(mute)}"
        worse("replay", words + _inside(is_on), _OPEN)
    elif bare:
        findings.warn(
            "replay",
            f"{bare} of {len(by_rank)} ranks have none: events that are lost, or came before a "
            "reader did, cannot be had again",
            "add a replay_endpoint to its --kv-events-config",
        )
    else:
        findings.ok("replay", f"all {len(by_rank)} answer")


def _inside(is_on: bool) -> str:
    return " (the server itself reads its own)" if is_on else ""


class _Heard:
    """Asks as `ask` does, and counts the answers that are tokens."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.answers = 0

    async def json(self, path: str, body: object = None) -> Any:
        found = await self._ask.json(path, body)
        self.answers += isinstance(found, dict) and isinstance(found.get("tokens"), list)
        return found

    async def text(self, path: str) -> str:
        return await self._ask.text(path)

    async def rpc(self, method: str) -> bytes:
        return await self._ask.rpc(method)


async def look_at_tokenizer(
    findings: Findings, facts: Facts, ask: Ask, given: str | None, is_on: bool
) -> None:
    """Add whether a router here would tokenize as the server does, by the tokenizer `given` or
    by what the server names. Seconds, to load it."""
    name = given or facts.tokenizer
    heard = _Heard(ask)
    with ThreadPoolExecutor(1, "tokenizer") as threads:
        try:
            if name is None:
                raise TokenizerError("the server names none")
            loaded = await asyncio.get_running_loop().run_in_executor(
                threads, load_tokenizer, name, None, _CACHE_BYTES
            )
        except TokenizerError as error:
            findings.warn(
                "tokenizer",
                f"cannot be compared: {error}",
                "give its directory or name: --tokenizer NAME; a router needs it too",
            )
            return
        prompts = Prompts(loaded, DIALECTS[facts.engine], threads)
        differs = await prompts.differences(heard, facts.model)
    if differs:
        (findings.warn if is_on else findings.fail)(
            "tokenizer",
            f"{name} makes other tokens of {differs} than the server: a router here could not "
            "match its events",
            "name the right one, in `tokenizer` of the router's configuration, or its template "
            "in `chat_template`",
        )
    elif heard.answers:
        findings.ok("tokenizer", f"{name} here makes the server's tokens")
    else:
        findings.warn(
            "tokenizer",
            "the server has no /tokenize to compare with",
            "see that both are of one model; `preble explain` shows hits that are missed",
        )
