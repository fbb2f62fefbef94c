"""The router in front of vLLM's Rust front end, with two ranks behind it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from preble_plugin.bench.server import free_port
from preble_plugin.bench.vllm_server import BLOCK_SIZE, VllmServer
from preble_plugin.core import Receipt
from preble_plugin.serve.app import App
from tests.engines import EngineRoom, Serving
from tests.engines.client import Client, tokens
from tests.engines.preble import until
from tests.engines.rust_frontend import rust_frontend
from tests.serve.calls import client, pool
from tests.serve.conftest import MakeRouter
from tests.serve.real_engines import CHATS, TEXT, assert_exact, settled, status, twice
from tests.serve.test_real_vllm import EVENTS

pytestmark = pytest.mark.vllm

GRPC_PORT = free_port()


@pytest.fixture(scope="module")
def kind() -> Serving:
    return Serving(
        flags=(
            *("--kv-events-config", EVENTS),
            *("--grpc-port", str(GRPC_PORT)),
            *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
            *("--dp-scheduler", "preble", "--dp-scheduler-config.local_queue", "on"),
        ),
        environment=(
            ("VLLM_HOST_IP", "127.0.0.1"),
            ("VLLM_USE_RUST_FRONTEND", "1"),
            ("VLLM_RUST_FRONTEND_PATH", str(rust_frontend())),
        ),
    )


@pytest.fixture
def server(engine_room: EngineRoom, kind: Serving) -> VllmServer:
    return engine_room.serve(kind)


@pytest.fixture
async def app(server: VllmServer, router: MakeRouter) -> App:
    backend = {"url": server.base_url, "grpc_port": GRPC_PORT}
    made = await router(up=1, backends=[backend])
    while not all(one.trust == "exact" for one in status(made).replicas):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return made


async def test_it_says_what_it_is(app: App):
    (backend,) = app.fleet.up
    facts = backend.facts
    assert facts is not None
    assert (facts.engine, facts.ranks, facts.block_size) == ("vllm", 2, BLOCK_SIZE)
    assert facts.capacity_tokens is not None
    assert facts.capacity_tokens % BLOCK_SIZE == 0
    assert facts.remarks == ()
    assert backend.exact


@pytest.mark.parametrize("name", CHATS)
async def test_conversations_are_found_where_they_were(app: App, name: str):
    body = {"model": "tiny", "max_tokens": 2, **CHATS[name]}
    assert_exact(*await twice(app, "/v1/chat/completions", name, body), BLOCK_SIZE)


async def test_what_is_not_cached_is_audited_too(app: App):
    """The Rust front end leaves a count of nothing out. Both kinds of answers have told a
    hit before."""
    for stream in (False, True):
        for salt in ("a", "b"):
            body: dict[str, Any] = {"model": "tiny", "max_tokens": 2, "prompt": TEXT * 20}
            body["cache_salt"] = f"{salt}-{stream}"
            if stream:
                body |= {"stream": True, "stream_options": {"include_usage": True}}
            first, again = await twice(app, "/v1/completions", str(body["cache_salt"]), body)
            assert first.predicted_cached_tokens == 0
            assert first.actual_cached_tokens == (None if body["cache_salt"] == "a-False" else 0)
            assert_exact(first, again, BLOCK_SIZE)


async def test_documents_go_to_both_ranks_and_each_hit_is_as_predicted(app: App):
    """Eight clients at once, each with six questions about a document of its own."""

    async def ask(document: int, question: int) -> Receipt:
        prompt = [*tokens(document, 330), *tokens(1000 + 10 * document + question, 20)]
        body = {"model": "tiny", "max_tokens": 3, "prompt": prompt, "stream": True}
        body["stream_options"] = {"include_usage": True}
        async with client(app) as session:
            headers = {"X-Request-Id": f"document-{document}-{question}"}
            async with session.post("/v1/completions", json=body, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
                assert (await answer.read()).endswith(b"data: [DONE]\n\n")
        (receipt,) = pool(app).frontend.host.explain(headers["X-Request-Id"])
        return receipt

    async def ask_all(document: int) -> list[Receipt]:
        return [await ask(document, question) for question in range(6)]

    receipts = [one for each in await asyncio.gather(*map(ask_all, range(8))) for one in each]
    again = [one for one in receipts if one.predicted_cached_tokens]
    assert [one.actual_cached_tokens for one in again] == [320] * len(again)
    assert [one.predicted_cached_tokens for one in again] == [320] * len(again)
    assert len(again) > 30
    assert not any(one.actual_cached_tokens for one in receipts if one not in again)
    assert len({one.replica for one in receipts}) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_request_in_the_engine(
    app: App, server: VllmServer, stream: bool
):
    body = {"model": "tiny", "prompt": TEXT, "max_tokens": 6000, "ignore_eos": True}
    async with client(app) as session:
        asking = asyncio.create_task(
            session.post("/v1/completions", json={**body, "stream": stream})
        )
        while not server.metrics().total("vllm:num_requests_running"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        if stream:
            answer = await asking
            await answer.content.readuntil(b"\n\n")
            answer.close()
        asking.cancel()
    while server.metrics().total("vllm:num_requests_running"):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    await settled(app)
    assert status(app).in_flight == 0
    assert pool(app).faults.counts == {}


def test_a_cached_prompt_that_came_last_is_answered_before_others(server: VllmServer):
    """By the local queue of rank 0, which the Rust front end knows nothing of."""
    document, rank = tokens(900, 1500), {"X-data-parallel-rank": "0"}
    asking, answered, lock = Client(server), list[str](), threading.Lock()

    def ask(name: str, prompt: list[int]) -> None:
        asking.complete(prompt, rank)
        with lock:
            answered.append(name)

    asking.complete(document, rank)
    others = [tokens(910 + number, 2000) for number in range(8)]
    with ThreadPoolExecutor(len(others) + 1) as threads:
        sent = [threads.submit(ask, "other", prompt) for prompt in others]
        until(
            lambda: server.metrics().total("vllm:num_requests_waiting"), lambda waiting: waiting > 3
        )
        sent.append(threads.submit(ask, "question", [*document, *tokens(920, 40)]))
        for one in sent:
            one.result()
    assert "question" in answered[:-2]
    assert server.log_text().count("what waits is taken up by preble's local queue") == 2
