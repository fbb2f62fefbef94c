"""The router in front of a real vLLM of two ranks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from preble_plugin.bench.vllm_server import BLOCK_SIZE, VllmServer
from preble_plugin.serve.app import App
from tests.engines import EngineRoom, Serving
from tests.serve.conftest import MakeRouter
from tests.serve.real_engines import CHATS, TEXT, assert_exact, status, twice

pytestmark = pytest.mark.vllm

EVENTS = (
    '{"enable_kv_cache_events": true, "publisher": "zmq", "endpoint": "tcp://*:0", '
    '"replay_endpoint": "tcp://*:0"}'
)
KIND = Serving(
    flags=(
        *("--kv-events-config", EVENTS),
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    ),
    environment=(("VLLM_HOST_IP", "127.0.0.1"),),
)


@pytest.fixture
def server(engine_room: EngineRoom) -> VllmServer:
    return engine_room.serve(KIND)


@pytest.fixture
async def app(server: VllmServer, router: MakeRouter) -> App:
    made = await router(up=1, backends=[server.base_url], health_timeout_seconds=30)
    while not all(one.trust == "exact" for one in status(made).replicas):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return made


async def test_it_says_what_it_is(app: App):
    (backend,) = app.fleet.up
    facts = backend.facts
    assert facts is not None
    assert (facts.engine, facts.ranks, facts.block_size) == ("vllm", 2, BLOCK_SIZE)
    assert facts.capacity_tokens is not None
    assert facts.remarks == ()
    assert backend.exact


@pytest.mark.parametrize("name", CHATS)
async def test_conversations_are_found_where_they_were(app: App, name: str):
    body = {"model": "tiny", "max_tokens": 2, **CHATS[name]}
    assert_exact(*await twice(app, "/v1/chat/completions", name, body), BLOCK_SIZE)


@pytest.mark.parametrize("stream", [False, True])
async def test_text_is_found_where_it_was(app: App, stream: bool):
    body: dict[str, Any] = {"model": "tiny", "max_tokens": 2, "prompt": f"{stream}. " + TEXT * 20}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    assert_exact(*await twice(app, "/v1/completions", f"text-{stream}", body), BLOCK_SIZE)
