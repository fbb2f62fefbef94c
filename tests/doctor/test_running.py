"""Servers of this user that live, asked at their admin sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from kv_publisher import KvPublisher

from preble_plugin.core import Finished, FirstToken, Placement, Request
from preble_plugin.doctor.finding import Finding
from preble_plugin.doctor.running import look_at_running
from preble_plugin.service.interface import EventSource, ReplicaSpec
from preble_plugin.service.local import LocalFrontend
from preble_plugin.service.run_dir import ServerDirectory
from preble_plugin.settings import Settings
from tests.doctor.told import bad, states, the

Serve = Callable[..., Awaitable[LocalFrontend]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server with one replica."""
    made: list[LocalFrontend] = []

    async def start(
        events: EventSource | None = None, settings: Settings | None = None, replicas: int = 1
    ) -> LocalFrontend:
        frontend = LocalFrontend(settings or Settings())
        made.append(frontend)
        if replicas:
            frontend.set_replicas([ReplicaSpec(0, 16, capacity_blocks=100, events=events)])
        await frontend.start()
        return frontend

    yield start
    for one in made:
        await one.close()


async def ask(frontend: LocalFrontend, name: str, cached: int | None) -> None:
    """Place a request of four blocks, of which the engine says that `cached` tokens were."""
    assert frontend.hasher is not None
    request = Request(name, frontend.hasher.prompt_keys(range(64)), 65)
    assert isinstance(await frontend.place(request), Placement)
    frontend.observe(0, [FirstToken(name, cached), Finished(name, 5)], time.monotonic())


async def look() -> list[Finding]:
    """Findings about what runs, made beside the servers' loop."""
    return await asyncio.to_thread(look_at_running)


async def exact(frontend: LocalFrontend) -> None:
    """Until its replica's events are all there."""
    while True:
        status = frontend.status()
        assert status is not None
        if status.replicas[0].trust == "exact":
            return
        await asyncio.sleep(0.02)


async def test_all_is_well(serve: Serve, publisher: KvPublisher) -> None:
    publisher.store(range(64), 16)  # before: it is replayed, and exact means that it is known
    frontend = await serve(publisher.source)
    await exact(frontend)
    await ask(frontend, "r", 64)
    findings = await look()
    assert bad(findings) == {}
    assert the(findings, "audit").words == "1 of 1 requests were predicted to the token"
    assert the(findings, "events").words == "replica 0 exact: every event came"


async def test_nobody_runs(run_dir: Path) -> None:
    findings = await look()
    assert bad(findings) == {"running": "warn"}
    assert str(run_dir) in findings[0].words


async def test_a_server_that_has_not_finished_starting(serve: Serve) -> None:
    await serve(replicas=0)
    assert bad(await look()) == {"running": "warn"}


async def test_a_server_that_does_not_answer(run_dir: Path) -> None:
    directory = ServerDirectory()
    assert bad(await look()) == {"running": "fail"}
    directory.remove()


async def test_a_server_without_events_is_said_to_be_silent(serve: Serve) -> None:
    await serve()
    assert bad(await look()) == {"events": "warn"}


async def test_hits_that_nobody_predicted(serve: Serve) -> None:
    frontend = await serve()
    await ask(frontend, "r", 48)
    assert bad(await look()) == {"events": "warn", "hits": "warn"}


async def test_an_engine_that_does_not_say_what_was_cached(serve: Serve) -> None:
    frontend = await serve()
    await ask(frontend, "r", None)
    findings = await look()
    assert states(findings, "audit") == ["warn"]
    remedy = the(findings, "audit").remedy
    assert remedy is not None
    assert "--enable-prompt-tokens-details" in remedy
    assert "--enable-cache-report" in remedy


async def test_shadow_mode(serve: Serve, publisher: KvPublisher) -> None:
    frontend = await serve(publisher.source, Settings(shadow=True))
    await exact(frontend)
    assert bad(await look()) == {"preble": "warn"}


async def test_what_could_not_be_read_is_counted(serve: Serve, publisher: KvPublisher) -> None:
    frontend = await serve(publisher.source)
    publisher.store(range(64), 16)
    publisher.publish([{"type": "BlockRemoved", "block_hashes": [7], "medium": "GPU"}])
    await exact(frontend)
    while True:
        status = frontend.status()
        assert status is not None
        if status.skipped_events:
            break
        await asyncio.sleep(0.02)
    assert the(await look(), "troubles").state == "warn"
