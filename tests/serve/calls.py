"""Requests to a router, as any client sends them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from preble_plugin.serve.app import App
from preble_plugin.serve.pool import Pool


@asynccontextmanager
async def client(app: App) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the public port."""
    base = f"http://127.0.0.1:{app.port}"
    async with aiohttp.ClientSession(base, auto_decompress=False) as session:
        yield session


async def complete(app: App, tokens: list[int], **more: Any) -> tuple[int, Any]:
    """Ask for a completion of these tokens: the status, and the answer."""
    body = {"model": "tiny", "prompt": tokens, "max_tokens": 4, **more}
    async with client(app) as session, session.post("/v1/completions", json=body) as answer:
        return answer.status, await answer.json()


def numbers(first: int, blocks: int, block_size: int = 16) -> list[int]:
    """A prompt of full blocks and one token more, unlike any with another `first`."""
    return [first * 1000 + i for i in range(blocks * block_size + 1)]


def pool(app: App, model: str = "tiny") -> Pool:
    """The pool of a model."""
    found = app.fleet.pools.of(model)
    assert found is not None
    return found
