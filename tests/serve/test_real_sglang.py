"""The router in front of a real SGLang of two ranks."""

from __future__ import annotations

import pytest

from preble_plugin.bench.server import free_port
from preble_plugin.bench.sglang_server import PAGE_SIZE, SglangServer
from preble_plugin.serve.app import App
from tests.engines import EngineRoom, SglangServing
from tests.serve.conftest import MakeRouter
from tests.serve.real_engines import CHATS, TEXT, assert_exact, in_front, twice

pytestmark = pytest.mark.sglang


@pytest.fixture(scope="module")
def kind() -> SglangServing:
    events = (
        f'{{"publisher": "zmq", "endpoint": "tcp://*:{free_port()}", '
        f'"replay_endpoint": "tcp://*:{free_port()}"}}'
    )
    return SglangServing(flags=("--kv-events-config", events))


@pytest.fixture
def server(engine_room: EngineRoom, kind: SglangServing) -> SglangServer:
    return engine_room.serve(kind)


@pytest.fixture
async def app(server: SglangServer, router: MakeRouter) -> App:
    return await in_front(router, server)


async def test_it_says_what_it_is(app: App):
    (backend,) = app.fleet.up
    facts = backend.facts
    assert facts is not None
    assert (facts.engine, facts.ranks, facts.block_size) == ("sglang", 2, PAGE_SIZE)
    assert facts.capacity_tokens == 8192
    assert facts.remarks == ()
    assert backend.exact


@pytest.mark.parametrize("name", CHATS)
async def test_conversations_are_found_where_they_were(app: App, name: str):
    body = {"model": "tiny", "max_tokens": 2, **CHATS[name]}
    assert_exact(*await twice(app, "/v1/chat/completions", name, body), PAGE_SIZE)


@pytest.mark.parametrize("stream", [False, True])
async def test_generate_finds_its_prefix_where_it_was(app: App, stream: bool):
    body = {
        "text": f"Generate {stream}. " + TEXT * 20,
        "sampling_params": {"max_new_tokens": 2},
        "stream": stream,
    }
    assert_exact(*await twice(app, "/generate", f"generate-{stream}", body), PAGE_SIZE)


async def test_completions_find_their_prefix_where_it_was(app: App):
    body = {"model": "tiny", "prompt": "Complete. " + TEXT * 20, "max_tokens": 2}
    assert_exact(*await twice(app, "/v1/completions", "complete", body), PAGE_SIZE)
