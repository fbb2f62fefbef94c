"""Clients of a router that ask for one stream after the other, and what each came to."""

from __future__ import annotations

import asyncio
import json
from typing import NamedTuple

import aiohttp

from tests.engines.client import tokens

OUTPUT_TOKENS = 24
_DOCUMENTS = 12


class Streamed(NamedTuple):
    """One request, as its client saw it."""

    request_id: str
    status: int
    begun: bool
    """A byte of its answer's body has come."""
    ended: bool
    """Its answer has its last line."""
    answers: int
    """Different ids in what came: of one answer there is one."""
    output_tokens: int
    """What the engine says that it generated."""
    words: str
    """What was wrong, for the message of a test that fails."""

    @property
    def whole(self) -> bool:
        """Answered, once and to the end."""
        asked = self.answers, self.output_tokens
        return self.status == 200 and self.ended and asked == (1, OUTPUT_TOKENS)

    @property
    def broken(self) -> bool:
        """Begun, and broken off."""
        return self.status == 200 and self.begun and not self.ended


class Streams:
    """`clients` of the router at `base_url`, of which so many ask as `allow` says."""

    def __init__(self, base_url: str, clients: int) -> None:
        self.done: list[Streamed] = []
        self._base_url = base_url
        self._allowed = clients
        self._asking = clients
        self._ended = False
        self._news = asyncio.Condition()
        self._tasks = [asyncio.ensure_future(self._client(number)) for number in range(clients)]

    async def allow(self, clients: int) -> None:
        """From their next request on, so many of them go on, and the others wait."""
        async with self._news:
            self._allowed = clients
            self._news.notify_all()

    async def until_done(self, requests: int) -> None:
        """Until so many more have ended, whatever came of them."""
        wanted = len(self.done) + requests
        await self._until(lambda: len(self.done) >= wanted)

    async def until_idle(self) -> None:
        """Until none asks but those that are allowed to."""
        await self._until(lambda: self._asking <= self._allowed)

    async def finish(self) -> list[Streamed]:
        """Let what is in flight end, and no more come; all that was asked."""
        self._ended = True
        await self.allow(len(self._tasks))
        await asyncio.gather(*self._tasks)
        return self.done

    def cancel(self) -> None:
        """Leave it all."""
        for task in self._tasks:
            task.cancel()

    async def _until(self, true: object) -> None:
        assert callable(true)
        async with self._news:
            await self._news.wait_for(true)

    async def _client(self, number: int) -> None:
        asked = 0
        async with aiohttp.ClientSession(self._base_url) as session:
            while not self._ended:
                if number >= self._allowed:
                    async with self._news:
                        self._asking -= 1
                        self._news.notify_all()
                        await self._news.wait_for(lambda: number < self._allowed)
                        self._asking += 1
                    continue
                asked += 1
                found = await _ask(session, number, asked)
                async with self._news:
                    self.done.append(found)
                    self._news.notify_all()


async def _ask(session: aiohttp.ClientSession, number: int, asked: int) -> Streamed:
    request_id = f"client-{number}-{asked}"
    document = tokens((number * 7 + asked) % _DOCUMENTS, 200)
    body = {
        "model": "tiny",
        "prompt": document + tokens(1000 + number * 1000 + asked, 20),
        "max_tokens": OUTPUT_TOKENS,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    status, came, words = 0, b"", ""
    try:
        headers = {"X-Request-Id": request_id}
        async with session.post("/v1/completions", json=body, headers=headers) as answer:
            status = answer.status
            async for piece in answer.content.iter_any():
                came += piece
    except aiohttp.ClientError as error:
        words = f"{type(error).__name__}: {error}"
    lines = came.split(b"\n\n")
    told = [json.loads(one[6:]) for one in lines[:-1] if one.startswith(b"data: {")]
    usages = [one["usage"] for one in told if one.get("usage")]
    return Streamed(
        request_id,
        status,
        begun=bool(came),
        ended=lines[-2:] == [b"data: [DONE]", b""] and not words,
        answers=len({one["id"] for one in told if "id" in one}),
        output_tokens=usages[-1]["completion_tokens"] if usages else 0,
        words=words or came[-200:].decode(errors="replace"),
    )
