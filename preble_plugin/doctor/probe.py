"""The same prompt sent twice: is it found in the cache, and does the answer say so?

1. The prompt is token ids drawn anew, some blocks and one token long, with one token of
   output; nothing else has its blocks.
2. Where placement is off and there are several ranks, both are sent to rank 0: else the
   engine's own dispatch may send the second where the first never was.
"""

from __future__ import annotations

import random
from typing import Final

import aiohttp

from preble_plugin.doctor.engines import ENGINES, Engine
from preble_plugin.doctor.finding import Findings
from preble_plugin.doctor.placement import Placed
from preble_plugin.serve.backend import Backend
from preble_plugin.serve.facts import AskError
from preble_plugin.serve.kinds import Kind
from preble_plugin.serve.learning import HttpAsk
from preble_plugin.serve.reading import Reading

_BLOCKS: Final = 4
_TOKENS: Final = 256
"""At least so many blocks, and so many tokens."""
_GUESSED_BLOCK: Final = 16
_IDS: Final = (100, 1000)
"""Token ids that any vocabulary has, and seldom special ones."""
_SECONDS: Final = 60.0
_RANK: Final = {"X-data-parallel-rank": "0"}


async def probe(
    findings: Findings,
    backend: Backend,
    session: aiohttp.ClientSession,
    engine: Engine | None,
    placed: Placed | None,
) -> None:
    """Add what came of it. Two completions of one token; at most 60 s each."""
    facts = backend.facts
    block = (facts.block_size if facts is not None else None) or _GUESSED_BLOCK
    length = max(_BLOCKS, -(-_TOKENS // block)) * block + 1
    draw = random.SystemRandom()
    prompt = [draw.randrange(*_IDS) for _ in range(length)]
    pins = placed is None and backend.ranks > 1 and backend.names_rank(Kind.COMPLETION)
    ask = backend.ask(session, _SECONDS, _RANK if pins else None)
    try:
        model = facts.model if facts is not None else await _model(ask)
        first = await _cached(ask, model, prompt)
        second = await _cached(ask, model, prompt)
    except AskError as error:
        findings.fail(
            "probe",
            f"a completion of one token fails: {error}",
            "see the server's log; a model that does not complete text cannot be probed so",
        )
        return
    sent = f"the same {length} tokens sent twice{' to rank 0' if pins else ''}"
    engines = (engine,) if engine is not None else ENGINES
    if second is None:
        findings.warn(
            "probe",
            f"{sent}: the answers do not say what was cached, so that a router cannot audit hits",
            "; ".join(f"{one.title}: {one.reports}" for one in engines),
        )
    elif second == 0:
        findings.fail(
            "probe",
            f"{sent}: nothing was found cached the second time",
            "see prefix caching above; if it is on, the cache is too small to keep a prompt, or "
            "the two went to different replicas: see replicas and events",
        )
    else:
        findings.ok("probe", f"{sent}: {first or 0} and then {second} found cached")


async def _model(ask: HttpAsk) -> str:
    listed = await ask.json("/v1/models")
    try:
        return str(listed["data"][0]["id"])
    except (LookupError, TypeError):
        raise AskError("/v1/models names no model") from None


async def _cached(ask: HttpAsk, model: str, prompt: list[int]) -> int | None:
    """What the answer to `prompt` says was cached, in tokens."""
    body = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0}
    status, _, found = await ask.answer("/v1/completions", body)
    if status != 200:
        raise AskError(f"/v1/completions is answered with {status}")
    reading = Reading(Kind.COMPLETION)
    reading.whole(found)
    return reading.cached_tokens
