"""Servers to be looked at: recorded engines, routers, and publishers of events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from kv_publisher import KvPublisher

from tests.doctor.told import Start, ToldEngine

# Taken as they are: this is where the same servers are asked for another reason.
from tests.serve.conftest import engine, own_run_dir, router, tokenizer_dir

__all__ = ["engine", "own_run_dir", "publisher", "router", "start", "tokenizer_dir"]

VERSION = {"/version": {"version": "0.32.0"}}


@pytest.fixture
def publisher() -> Iterator[KvPublisher]:
    """A replica's event sockets."""
    made = KvPublisher()
    yield made
    made.close()


@pytest.fixture
async def start(publisher: KvPublisher) -> AsyncIterator[Start]:
    """Starts a server: a vLLM of one rank with events where nothing else is said."""
    async with AsyncExitStack() as stack:

        async def made(*, answers: dict[str, Any] | None = None, **options: Any) -> ToldEngine:
            options.setdefault("events", [publisher.source] * options.get("ranks", 1))
            engine = ToldEngine(answers={**VERSION, **(answers or {})}, **options)
            await engine.start()
            stack.push_async_callback(engine.stop)
            return engine

        yield made
