"""Requests of the simulator's workloads, asked of a real server, in open or closed loop.

1. A prompt goes as token ids: those of its streams, taken into the model's vocabulary.
   Where a stream is an earlier request's answer they are what the engine answered. Another
   `Wording` makes other prompts of the same streams.
2. A request goes at its own time, however many are unanswered; one that comes after
   another goes its pause after that one's last token has come.
3. Exactly so many tokens are generated as the workload says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol

import httpx
import msgspec

from preble_plugin.bench.open_loop import Streamed, connected, streamed
from preble_plugin.bench.tiny_model import VOCABULARY
from preble_plugin.sim.asked import Asked, Part, stream_tokens

SPECIAL: Final = 8
"""Ids below are the tokenizer's own; no prompt has them."""


class Heard(msgspec.Struct, frozen=True):
    """What one request got; times in seconds, from the start or from when it was due."""

    request_id: str
    arrived: float
    late: float
    ttft: float
    latency: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    error: str | None = None


def ids(stream: int, tokens: int) -> list[int]:
    """A stream's first tokens in the vocabulary of the tiny model."""
    found: list[int] = (stream_tokens(stream, tokens) % (VOCABULARY - SPECIAL) + SPECIAL).tolist()
    return found


class Wording(Protocol):
    """What prompts are made of: token ids, or text."""

    def part(self, stream: int, tokens: int) -> Any:
        """A stream's first tokens."""

    def answer(self, token_ids: Sequence[int]) -> Any:
        """What an engine answered."""

    def prompt(self, parts: Sequence[Any]) -> str | Sequence[int]:
        """A prompt of these."""


class Ids:
    """Prompts of token ids."""

    def part(self, stream: int, tokens: int) -> list[int]:
        return ids(stream, tokens)

    def answer(self, token_ids: Sequence[int]) -> list[int]:
        return list(token_ids)

    def prompt(self, parts: Sequence[list[int]]) -> list[int]:
        return [token for part in parts for token in part]


def body(model: str, prompt: str | Sequence[int], output_tokens: int) -> bytes:
    """A completion of just `output_tokens` tokens, streamed with its token ids."""
    return json.dumps(
        {
            "model": model,
            "prompt": prompt,
            "max_tokens": output_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }
    ).encode()


async def complete(
    client: httpx.AsyncClient,
    model: str,
    prompt: str | Sequence[int],
    output_tokens: int,
    due: float | None = None,
    rank: int | None = None,
) -> Streamed:
    """One completion, due now unless said otherwise, on a rank if one is given."""
    headers = None if rank is None else {"X-data-parallel-rank": str(rank)}
    at = time.perf_counter() if due is None else due
    return await streamed(
        client, "/v1/completions", body(model, prompt, output_tokens), at, headers
    )


def replay(
    base_url: str | Sequence[str],
    model: str,
    workload: Sequence[Asked],
    ranks: int | None = None,
    wording: Wording | None = None,
) -> list[Heard]:
    """Ask all of `workload` and wait for all answers, in the order of `workload`.

    With `ranks` nobody places: each request goes to the next rank in turn; of several
    servers, to the next server. Does not raise for requests that fail.
    """
    urls = [base_url] if isinstance(base_url, str) else base_url
    return asyncio.run(_replay(urls, model, workload, ranks, wording or Ids()))


async def _replay(
    base_urls: Sequence[str],
    model: str,
    workload: Sequence[Asked],
    ranks: int | None,
    wording: Wording,
) -> list[Heard]:
    answers: dict[int, Any] = {}
    known = {part: wording.part(*part) for one in workload for part in one.prompt}
    ended: dict[str, asyncio.Future[float]] = {
        one.request_id: asyncio.get_running_loop().create_future() for one in workload
    }
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(url)) for url in base_urls]
        began = time.perf_counter() + 0.1

        def part(one: Part) -> Any:
            answered = answers.get(one.stream)
            return known[one] if answered is None else answered

        async def ask(number: int, one: Asked) -> Heard:
            rank = None if ranks is None else number % ranks
            due = began + one.at
            if one.after is not None:
                due = await ended[one.after] + one.at
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            prompt = wording.prompt([part(each) for each in one.prompt])
            client = clients[number % len(clients)]
            came = await complete(client, model, prompt, one.output_tokens, due, rank)
            if one.answer is not None and len(came.token_ids) == one.output_tokens:
                answers[one.answer] = wording.answer(came.token_ids)
            ended[one.request_id].set_result(due + came.latency_seconds)
            short = came.output_tokens != one.output_tokens
            return Heard(
                request_id=one.request_id,
                arrived=due - began,
                late=came.late_seconds,
                ttft=came.ttft_seconds,
                latency=came.latency_seconds,
                prompt_tokens=came.prompt_tokens,
                cached_tokens=came.cached_tokens,
                output_tokens=came.output_tokens,
                error=came.error or (f"{came.output_tokens} tokens" if short else None),
            )

        return await asyncio.gather(*(ask(*each) for each in enumerate(workload)))
