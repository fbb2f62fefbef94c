"""Two vLLM and one SGLang behind one `preble serve`, one of which is killed and comes back.

1. 64 clients ask for one stream after the other. In the midst of it all processes of a
   vLLM are killed.
2. While it starts again, which takes all cores of a small machine, one client goes on.
3. From the moment it is well all 64 ask again, until it has answered its share.

Every request and every answer is counted three times: by the clients, by the router, and
by the engines.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from preble_plugin.bench.server import Metrics, Server
from tests.engines import EngineRoom, Serving, SglangServing
from tests.engines.preble import until
from tests.serve.running import Running, serving
from tests.serve.streams import Streamed, Streams

pytestmark = [pytest.mark.vllm, pytest.mark.sglang]

CLIENTS = 64
LOOKS = 5
"""Health looks, one a second, until a server that is well again has requests."""
VLLM = Serving(
    flags=(
        *("--data-parallel-size", "1"),
        *("--num-gpu-blocks-override", "512"),
        "--kv-events-config",
        '{"enable_kv_cache_events": true, "publisher": "zmq", "endpoint": "tcp://*:0", '
        '"replay_endpoint": "tcp://*:0"}',
    ),
    environment=(("VLLM_HOST_IP", "127.0.0.1"),),
)
SGLANG = SglangServing(flags=("--dp-size", "1", "--page-size", "32"))


@contextlib.asynccontextmanager
async def started(*servers: Server) -> AsyncIterator[None]:
    """All at once, and ended."""
    try:
        starts = [asyncio.to_thread(one.start) for one in servers]
        for failed in await asyncio.gather(*starts, return_exceptions=True):
            if isinstance(failed, BaseException):
                raise failed
        yield
    finally:
        for one in servers:
            one.stop()


class Router:
    """The process that runs, with what it and its backends count."""

    def __init__(self, running: Running, port: str, metrics_port: str) -> None:
        self.running = running
        self.base_url = f"http://127.0.0.1:{port}"
        self._inside = f"http://127.0.0.1:{metrics_port}"

    async def counts(self) -> Metrics:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as asking:
            return Metrics((await asking.get(f"{self._inside}/metrics")).text)

    async def until_up(self, backends: int) -> None:
        while (await self.counts()).total("preble:backend_up") != backends:  # noqa: ASYNC110
            await asyncio.sleep(0.1)

    async def until_idle(self) -> None:
        while (await self.counts()).total("preble:router_in_flight"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)

    async def answered(self, backend: Server) -> float:
        counts = await self.counts()
        return counts.total("preble:router_answers_total", backend=name(backend), status="200")

    async def failed(self, backend: Server, *causes: str) -> float:
        counts = await self.counts()
        found = counts.by("cause", "preble:router_failures_total", backend=name(backend))
        return sum(found.get(cause, 0.0) for cause in causes)

    async def has_requests(self, backend: Server, least: int = 1) -> bool:
        counts = await self.counts()
        return counts.total("preble:backend_in_flight", backend=name(backend)) >= least


@contextlib.asynccontextmanager
async def routing(*servers: Server) -> AsyncIterator[Router]:
    """One `preble serve`, as it is without settings, in front of these."""
    backends = [word for one in servers for word in ("--backend", one.base_url)]
    async with serving(*backends, "--metrics-port", "0") as running:
        said = await running.says(r"serving at http://127.0.0.1:(\d+), metrics at port (\d+)")
        reading = asyncio.create_task(running.read_on())
        router = Router(running, said[1], said[2])
        await router.until_up(len(servers))
        yield router
        running.process.send_signal(signal.SIGTERM)
        await reading
        assert await running.process.wait() == 0


def name(server: Server) -> str:
    return server.base_url.removeprefix("http://")


def generated(server: Server) -> float:
    """Requests that the engine has worked off, to whatever end."""
    metrics = server.metrics()
    sglang = metrics.total("sglang:num_requests_total")
    return sglang + metrics.total("vllm:request_success_total")


def looks(server: Server) -> int:
    """Times that its health was asked for, since it started, and it was well."""
    return server.log_text().count('"GET /health HTTP/1.1" 200')


async def test_one_of_three_is_killed_and_comes_back(engine_room: EngineRoom, tmp_path: Path):
    engine_room.close()
    killed, stays, other = servers = (
        VLLM.build(tmp_path / "killed.log"),
        VLLM.build(tmp_path / "stays.log"),
        SGLANG.build(tmp_path / "sglang.log"),
    )
    async with started(*servers), routing(*servers) as router:
        before = {one.port: await asyncio.to_thread(generated, one) for one in servers}
        streams = Streams(router.base_url, CLIENTS)
        try:
            await streams.until_done(CLIENTS)
            while not await router.has_requests(killed, least=4):
                await streams.until_done(1)
            os.killpg(killed.pid, signal.SIGKILL)
            await streams.until_done(2 * CLIENTS)
            await streams.allow(1)
            await streams.until_idle()
            first_life = await router.answered(killed)

            await asyncio.to_thread(killed.stop)
            await asyncio.to_thread(killed.start)
            began = time.monotonic()
            await streams.allow(CLIENTS)
            while not await router.has_requests(killed):
                await streams.until_done(1)
            asked = looks(killed)
            print(f"routing returned after {time.monotonic() - began:.1f} s, {asked - 1} looks")
            await streams.until_done(2 * CLIENTS)
            done = await streams.finish()
            await router.until_idle()
        finally:
            streams.cancel()

        assert lost(done) == []
        assert len({one.request_id for one in done}) == len(done)
        answered = {one.port: await router.answered(one) for one in servers}
        assert sum(answered.values()) == sum(one.whole for one in done)
        cut = [await router.failed(one, "cut") for one in servers]
        assert cut == [sum(one.broken for one in done), 0, 0]
        assert await router.failed(killed, "connect", "disconnect") > 0  # sent elsewhere
        for one, ours in (
            (stays, answered[stays.port]),
            (other, answered[other.port]),
            (killed, answered[killed.port] - first_life),
        ):
            count = ours + (0 if one is killed else before[one.port])
            await asyncio.to_thread(until, partial(generated, one), count.__eq__)
            assert ours > 0
        assert asked <= 1 + LOOKS  # the first was that of the start


def lost(done: list[Streamed]) -> list[Streamed]:
    """Requests that were neither answered in full nor broken off after their first byte."""
    return [one for one in done if not (one.whole or one.broken)]
