"""An open-loop load generator for an OpenAI-compatible server.

1. Each call is sent at its own time, however many are still unanswered: a slow
   server gets no rest (no coordinated omission).
2. Times are counted from the moment a call was due, not from when it got out.
3. TTFT ends with the first streamed chunk; vLLM sends it with the first token.
4. A call that fails, or is answered short, is an answer too, with its `error`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import httpx
import msgspec

from preble_plugin.bench.workload import Call

TIMEOUT_SECONDS: Final = 120.0


class Answer(msgspec.Struct, frozen=True):
    """What one call got. Times in seconds from the moment it was due."""

    document: int
    at_seconds: float
    late_seconds: float
    """How late the generator itself sent it."""
    ttft_seconds: float
    latency_seconds: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    error: str | None = None


def drive(
    base_url: str,
    model: str,
    calls: Sequence[Call],
    answered: Callable[[Answer], None] = lambda answer: None,
) -> list[Answer]:
    """Send `calls` at their times and wait for all answers, in order of arrival.

    `answered` is called as each comes in. Does not raise for failed calls.
    """
    return asyncio.run(_drive(base_url, model, calls, answered))


class Pace(NamedTuple):
    """What all ranks together answer per second, each kept busy with one request."""

    uncached: float
    cached: float


def warm(base_url: str, model: str, calls: Sequence[Call], ranks: int) -> Pace:
    """Send `calls` to `ranks` ranks, then the same ones again, and time both.

    Every rank gets its share of the calls, one after the other, all ranks at
    once; the first call of each is not timed, so that neither the pace nor a
    load that follows pays what only a server's first request costs.

    Raises `RuntimeError` if one fails, and `ValueError` for fewer than two
    calls a rank.
    """
    if len(calls) < 2 * ranks:
        raise ValueError(f"{len(calls)} calls are too few to time {ranks} ranks")
    return asyncio.run(_warm(base_url, model, calls, ranks))


async def _warm(base_url: str, model: str, calls: Sequence[Call], ranks: int) -> Pace:
    async with connected(base_url) as client:

        async def one_by_one(rank: int, share: Sequence[Call]) -> None:
            for call in share:
                headers = {"X-data-parallel-rank": str(rank)}
                answer = await _ask(client, _body(model, call), call, time.perf_counter(), headers)
                if answer.error is not None:
                    raise RuntimeError(f"a warm-up request failed: {answer.error}")

        async def pace(timed: Sequence[Call]) -> float:
            began = time.perf_counter()
            await asyncio.gather(*(one_by_one(rank, timed[rank::ranks]) for rank in range(ranks)))
            return len(timed) / (time.perf_counter() - began)

        await pace(calls[:ranks])
        return Pace(uncached=await pace(calls[ranks:]), cached=await pace(calls[ranks:]))


async def _drive(
    base_url: str, model: str, calls: Sequence[Call], answered: Callable[[Answer], None]
) -> list[Answer]:
    bodies = [_body(model, call) for call in calls]
    async with connected(base_url) as client, asyncio.TaskGroup() as group:
        began = time.perf_counter()

        async def ask_and_tell(call: Call, body: bytes) -> Answer:
            answer = await _ask(client, body, call, began + call.at_seconds)
            answered(answer)
            return answer

        tasks = []
        for call, body in zip(calls, bodies, strict=True):
            await asyncio.sleep(max(0.0, began + call.at_seconds - time.perf_counter()))
            tasks.append(group.create_task(ask_and_tell(call, body)))
    return [task.result() for task in tasks]


def connected(base_url: str) -> httpx.AsyncClient:
    """A client for as many requests at a time as there are; close it."""
    return httpx.AsyncClient(
        base_url=base_url,
        timeout=TIMEOUT_SECONDS,
        # The server closes what was idle for 5 s, and may do so under a request: be first.
        limits=httpx.Limits(
            max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0
        ),
        trust_env=False,
    )


def _body(model: str, call: Call) -> bytes:
    return json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": call.content}],
            "max_tokens": call.output_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()


class Streamed(NamedTuple):
    """What was streamed back. Times in seconds from the moment the request was due."""

    late_seconds: float
    ttft_seconds: float
    """Up to the end where nothing came."""
    latency_seconds: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    token_ids: list[int]
    """Of the answer, where the request asked for them (`return_token_ids`)."""
    error: str | None


async def streamed(
    client: httpx.AsyncClient,
    path: str,
    body: bytes,
    due: float,
    headers: Mapping[str, str] | None = None,
) -> Streamed:
    """POST `body`, which asks for a stream with usage; `due` is by `time.perf_counter`.
    Does not raise where it fails: there is an `error` then."""
    late = time.perf_counter() - due
    first: float | None = None
    usage: dict[str, Any] = {}
    token_ids: list[int] = []
    error: str | None = None
    try:
        async with client.stream(
            "POST",
            path,
            content=body,
            headers={"content-type": "application/json", **(headers or {})},
        ) as response:
            if response.status_code != 200:
                raise httpx.HTTPError(f"{response.status_code}: {(await response.aread())[:200]!r}")
            async for line in response.aiter_lines():
                if first is None and line.startswith("data: {"):
                    first = time.perf_counter() - due
                if '"usage":{' in line:
                    usage = json.loads(line.removeprefix("data: "))["usage"]
                if '"token_ids":[' in line:
                    token_ids += json.loads(line.removeprefix("data: "))["choices"][0]["token_ids"]
    except (httpx.HTTPError, json.JSONDecodeError, KeyError) as problem:
        error = f"{type(problem).__name__}: {problem}"
    latency = time.perf_counter() - due
    return Streamed(
        late_seconds=late,
        ttft_seconds=latency if first is None else first,
        latency_seconds=latency,
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        cached_tokens=int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
        output_tokens=int(usage.get("completion_tokens") or 0),
        token_ids=token_ids,
        error=error,
    )


async def _ask(
    client: httpx.AsyncClient,
    body: bytes,
    call: Call,
    due: float,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    came = await streamed(client, "/v1/chat/completions", body, due, headers)
    error = came.error
    if error is None and came.output_tokens != call.output_tokens:
        error = f"{came.output_tokens} of {call.output_tokens} output tokens"
    return Answer(
        document=call.document,
        at_seconds=call.at_seconds,
        late_seconds=came.late_seconds,
        ttft_seconds=came.ttft_seconds,
        latency_seconds=came.latency_seconds,
        prompt_tokens=came.prompt_tokens,
        cached_tokens=came.cached_tokens,
        output_tokens=came.output_tokens,
        error=error,
    )
