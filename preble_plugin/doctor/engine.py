"""One engine's server: what it is, whether requests are placed, whether prefixes are kept.

1. Its facts are learned as the router learns them; what cannot be learned fails.
2. Placement is told by its metrics.
3. What a router in front would need besides is for `for_router`.
"""

from __future__ import annotations

from typing import Any

import aiohttp

from preble_plugin.doctor.engines import Engine, engine_of, rust_answers, told
from preble_plugin.doctor.finding import Findings
from preble_plugin.doctor.for_router import look_at_events, look_at_tokenizer
from preble_plugin.doctor.metrics_page import placed
from preble_plugin.doctor.placement import Placed, judge_placed
from preble_plugin.doctor.probe import probe
from preble_plugin.serve.backend import Backend
from preble_plugin.serve.facts import Ask, AskError, Facts
from preble_plugin.serve.learning import learn
from preble_plugin.serve.vllm_http import RUST


async def look_at_engine(
    findings: Findings,
    backend: Backend,
    session: aiohttp.ClientSession,
    *,
    server: str,
    tokenizer: str | None,
    timeout_seconds: float,
    wants_probe: bool,
) -> None:
    """Add what is to be said of an engine at `backend`, whose header `Server` is `server`."""
    ask = backend.ask(session, timeout_seconds)
    try:
        facts = await learn(ask, backend.config, backend.host)
    except AskError as error:
        findings.fail(
            "answers",
            str(error).partition("; ")[0],
            "see the server's log; a server that is starting answers later",
        )
        return
    backend.facts = facts
    engine = engine_of(facts.engine)
    if engine is None:
        findings.warn(
            "engine",
            f"model {facts.model} is served by an engine that is not known",
            "a router in front places by what it sent there; placement inside needs an engine "
            "of ours",
        )
    else:
        ranks = "1 rank" if facts.ranks == 1 else f"{facts.ranks} ranks"
        findings.ok("answers", f"{engine.title} with model {facts.model}, {ranks}")
        tells = await told(engine, ask)
        _version(findings, engine, tells)
        _front_door(findings, engine, tells, server)
    found = await _placement(findings, engine, facts, ask)
    _cache(findings, engine, facts)
    is_on = found is not None
    await look_at_events(findings, engine, facts, is_on, timeout_seconds)
    await look_at_tokenizer(findings, facts, ask, tokenizer, is_on)
    if wants_probe:
        await probe(findings, backend, session, engine, found)


def _version(findings: Findings, engine: Engine, tells: dict[str, Any]) -> None:
    tested = f"tested are {engine.known.versions}"
    version = tells.get("version")
    if not isinstance(version, str):
        findings.warn("version", "it does not tell its version", tested)
        return
    if engine.known.tested(version):
        findings.ok("version", f"{version}; {tested}")
    else:
        findings.warn(
            "version",
            f"{version}; {tested}",
            "preble is on there where its contract holds: see `preble doctor` on its machine",
        )


def _front_door(findings: Findings, engine: Engine, tells: dict[str, Any], server: str) -> None:
    switch = engine.known.rust_switch
    match rust_answers(tells, server):
        case True:
            findings.warn(
                "front door",
                f"{engine.title}'s Rust front door answers: placement inside is passed by",
                f"unset {switch} where it is started, or put `preble serve` in front",
            )
        case False:
            findings.ok("front door", "the Python one")
        case None:
            findings.warn(
                "front door",
                "whether Python or Rust answers cannot be told from here",
                f"see whether {switch} is set where it is started",
            )


async def _placement(
    findings: Findings, engine: Engine | None, facts: Facts, ask: Ask
) -> Placed | None:
    """What its metrics say of placement, if it is on."""
    try:
        page = await ask.text("/metrics")
    except AskError as error:
        if engine is not None:
            findings.warn(
                "preble", f"whether it is on cannot be told: {error}", f"{engine.metrics} there"
            )
        return None
    found = placed(page)
    if found is not None:
        judge_placed(findings, found)
    elif facts.ranks == 1:
        findings.ok("preble", "one rank: there is nothing to place inside")
    elif engine is not None:
        findings.warn(
            "preble",
            f"is not on: {engine.title}'s own dispatch sends requests to its {facts.ranks} ranks",
            "start it with --dp-scheduler preble; if it was, run `preble doctor` with its Python "
            "on its machine",
        )
    return found


def _cache(findings: Findings, engine: Engine | None, facts: Facts) -> None:
    tell = engine.metrics if engine is not None else "see how it was started"
    if facts.prefix_caching is False:
        turn_on = engine.caching if engine is not None else "turn it on there"
        findings.fail("prefix caching", "is off: no prompt is ever found in its cache", turn_on)
    elif facts.prefix_caching:
        findings.ok("prefix caching", "is on")
    else:
        findings.warn("prefix caching", "whether it is on cannot be told", tell)
    if facts.block_size is None:
        if facts.cards[0].get("owned_by") == RUST:
            tell = "start it with --grpc-port, and name that to a router here as `grpc_port`"
        findings.warn("blocks", "it does not tell its block size", tell)
        return
    words = f"of {facts.block_size} tokens"
    if facts.capacity_tokens is not None:
        words += f", {facts.capacity_tokens // facts.block_size} in the cache of each rank"
    findings.ok("blocks", words)
