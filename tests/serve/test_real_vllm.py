"""The router in front of a real vLLM of two ranks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from preble_plugin.bench.vllm_server import BLOCK_SIZE, VllmServer
from preble_plugin.serve.app import App
from tests.engines import EngineRoom, Serving
from tests.serve.calls import client, pool
from tests.serve.conformance import findings
from tests.serve.conftest import MakeRouter
from tests.serve.real_engines import (
    CHATS,
    TEXT,
    TOOLS,
    assert_exact,
    in_front,
    settled,
    status,
    twice,
)

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
    return await in_front(router, server)


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


async def test_responses_are_tokenized_as_vllm_does(app: App):
    body = {"model": "tiny", "input": TEXT, "instructions": "Be brief.", "max_output_tokens": 2}
    headers = {"X-Request-Id": "response"}
    async with (
        client(app) as session,
        session.post("/v1/responses", json=body, headers=headers) as answer,
    ):
        usage = (await answer.json())["usage"]
    (receipt,) = pool(app).frontend.host.explain("response")
    assert receipt.prompt_tokens == usage["input_tokens"]


async def test_a_salt_keeps_prompts_apart(app: App):
    for salt in ("a", "b"):
        body = {"model": "tiny", "max_tokens": 2, "prompt": TEXT * 20, "cache_salt": salt}
        first, again = await twice(app, "/v1/completions", f"salt-{salt}", body)
        assert first.predicted_cached_tokens == first.actual_cached_tokens == 0
        assert_exact(first, again, BLOCK_SIZE)


async def test_the_openai_client_sees_vllm(app: App):
    base = f"http://127.0.0.1:{app.port}/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0) as asking:
        assert [model.id async for model in asking.models.list()] == ["tiny"]
        stream = await asking.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "Hi"}],
            tools=TOOLS,
            max_tokens=5,
            stream=True,
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].choices[0].finish_reason == "length"
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            await asking.completions.create(model="tiny", prompt="a", max_tokens=-1)
        with pytest.raises(openai.NotFoundError):
            await asking.completions.create(model="none", prompt="a")


async def test_schemathesis_finds_nothing(app: App, tmp_path: Path):
    found = await findings(app, tmp_path, examples=12, judged=True)
    assert not found, found


async def test_a_client_that_leaves_ends_its_request_in_the_engine(app: App, server: VllmServer):
    body = {"model": "tiny", "prompt": TEXT, "max_tokens": 6000, "ignore_eos": True, "stream": True}
    async with client(app) as session, session.post("/v1/completions", json=body) as answer:
        await answer.content.readuntil(b"\n\n")
        answer.close()
    while server.metrics().total("vllm:num_requests_running"):  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    await settled(app)
    assert status(app).in_flight == 0
    assert pool(app).faults.counts == {}
