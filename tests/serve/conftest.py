"""Routers and engines for one test, on sockets of loopback."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from preble_plugin.serve.app import App
from preble_plugin.serve.config import make_config
from tests.serve.recorded_engine import RecordedEngine
from tests.serve.tiny_tokenizer import make_tokenizer

MakeEngine = Callable[..., Awaitable[RecordedEngine]]
MakeRouter = Callable[..., Awaitable[App]]


@pytest.fixture(autouse=True)
def own_run_dir(run_dir: Path) -> None:
    """No test meets another's servers."""


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small tokenizer with a chat template."""
    return str(make_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
async def engine() -> AsyncIterator[MakeEngine]:
    """Starts engines; they are ended with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(**options: Any) -> RecordedEngine:
            made = await RecordedEngine(**options).start()
            stack.push_async_callback(made.stop)
            return made

        yield make


@pytest.fixture
async def router() -> AsyncIterator[MakeRouter]:
    """Starts routers for engines that run, and waits until all are up."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(*engines: RecordedEngine, up: int | None = None, **keys: Any) -> App:
            given: dict[str, Any] = {
                "backends": [one.url for one in engines],
                "port": 0,
                "health_interval_seconds": 0.05,
                "drain_timeout_seconds": 1.0,
                **keys,
            }
            app = App(make_config(given))
            await app.start()
            stack.push_async_callback(app.close)
            await app.wait_until_up(len(engines) if up is None else up)
            return app

        yield make
