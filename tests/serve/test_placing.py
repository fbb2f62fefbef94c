"""Where requests go: by what backends hold, by load, by rank, by model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from kv_publisher import KvPublisher

from preble_plugin.core import SchedulerStatus
from preble_plugin.serve.app import App
from preble_plugin.serve.config import make_config
from tests.serve.calls import client, complete, numbers, pool
from tests.serve.conftest import MakeEngine, MakeRouter
from tests.serve.recorded_engine import RecordedEngine


async def together(app: App, *engines: RecordedEngine, firsts: range) -> None:
    """Ask for these prompts at once: load spreads them evenly."""
    for one in engines:
        one.behave = "hold"
    asked = [asyncio.ensure_future(complete(app, numbers(first, 20))) for first in firsts]
    for one in engines:
        await one.until_came(len(firsts) // len(engines))
    for one in engines:
        one.behave = "answer"
        one.go.set()
    assert {status for status, _ in await asyncio.gather(*asked)} == {200}


async def test_a_prompt_goes_where_its_prefix_was_placed(engine: MakeEngine, router: MakeRouter):
    one, two = await engine(), await engine()
    app = await router(one, two)
    await together(app, one, two, firsts=range(4))
    homes = {c.body["prompt"][0]: backend for backend in (one, two) for c in backend.asked}

    for first in (3, 0, 2, 1):
        home = homes[first * 1000]
        before = len(home.asked)
        await complete(app, [*numbers(first, 20), 7])
        assert len(home.asked) == before + 1


async def test_requests_at_once_are_spread(engine: MakeEngine, router: MakeRouter):
    one, two = await engine(), await engine()
    app = await router(one, two)
    await together(app, one, two, firsts=range(6))

    assert (len(one.asked), len(two.asked)) == (3, 3)


async def test_ranks_of_a_backend_are_named_in_the_header(engine: MakeEngine, router: MakeRouter):
    one = await engine(ranks=2)
    app = await router(one)
    await together(app, one, firsts=range(4))

    assert sorted(c.headers["X-data-parallel-rank"] for c in one.asked) == ["0", "0", "1", "1"]


async def test_a_rank_that_the_client_fixed_is_kept(engine: MakeEngine, router: MakeRouter):
    one = await engine(ranks=4)
    app = await router(one)
    async with client(app) as session:
        for _ in range(3):
            fixed = {"X-data-parallel-rank": "3"}
            body = {"prompt": numbers(1, 8)}
            async with session.post("/v1/completions", json=body, headers=fixed) as answer:
                assert answer.status == 200

    assert [c.headers.getall("X-data-parallel-rank") for c in one.asked] == [["3"]] * 3


async def test_generate_names_the_rank_in_its_body(engine: MakeEngine, router: MakeRouter):
    one = await engine(engine="sglang", ranks=3)
    app = await router(one)
    async with client(app) as session:
        for body in ({"input_ids": numbers(1, 20), "sampling_params": {"n": 1}}, {}):
            async with session.post("/generate", json=body) as answer:
                assert (await answer.json())["text"] == "one two three"

    assert all(c.body.pop("routed_dp_rank") in (0, 1, 2) for c in one.asked)
    assert one.asked[0].body == {"input_ids": numbers(1, 20), "sampling_params": {"n": 1}}


async def test_a_rank_that_cannot_be_named_is_left_to_the_engine(
    engine: MakeEngine, router: MakeRouter
):
    one = await engine(ranks=2)
    one.cached_tokens = 3
    app = await router(one)
    asking = {"json": {"input": "Hi"}}
    async with client(app) as session, session.post("/v1/responses", **asking) as answer:
        assert answer.status == 200
    assert "X-data-parallel-rank" not in one.asked[0].headers
    assert sum(each.audited_requests for each in status(app).replicas) == 0
    assert status(app).in_flight == 0


@pytest.mark.parametrize("version", ["0.33.0", "0.34.0rc1.dev3+g1234", "1.0.0"])
async def test_a_response_is_for_the_rank_it_is_placed_on_where_vllm_reads_it(
    engine: MakeEngine, router: MakeRouter, version: str
):
    one = await engine(ranks=2, version=version)
    app = await router(one)
    asking = {"json": {"input": "Hi"}}
    async with client(app) as session:
        for path in ("/v1/responses", "/v1/embeddings"):
            async with session.post(path, **asking) as answer:
                assert answer.status == 200
    response, embedding = one.asked
    assert response.headers["X-data-parallel-rank"] in ("0", "1")
    assert "X-data-parallel-rank" not in embedding.headers


async def test_a_model_has_its_own_backends(engine: MakeEngine, router: MakeRouter):
    tiny, large = await engine(model="tiny"), await engine(model="large")
    app = await router(tiny, large)
    for _ in range(2):
        assert (await complete(app, numbers(1, 4)))[0] == 200
        assert (await complete(app, numbers(1, 4), model="large"))[0] == 200

    assert (len(tiny.asked), len(large.asked)) == (2, 2)
    status, answer = await complete(app, numbers(1, 4), model="none")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    assert "large, tiny" in answer["error"]["message"]
    async with client(app) as session, session.get("/v1/models") as listed:
        assert [card["id"] for card in (await listed.json())["data"]] == ["tiny", "large"]


async def test_what_is_passed_through_goes_to_the_model_that_it_names(
    engine: MakeEngine, router: MakeRouter
):
    tiny, large = await engine(model="tiny"), await engine(model="large")
    app = await router(tiny, large)
    async with client(app) as session:
        for _ in range(3):
            async with session.post("/v1/rerank", json={"model": "large"}) as answer:
                assert answer.status == 200
    assert (len(tiny.came), len(large.came)) == (0, 3)


async def test_text_without_a_tokenizer_meets_by_its_start(engine: MakeEngine, router: MakeRouter):
    one, two = await engine(), await engine()
    app = await router(one, two)
    async with client(app) as session:
        for document in ("cats ", "dogs ") * 2:
            talk = [{"role": "user", "content": document * 400}]
            async with session.post("/v1/chat/completions", json={"messages": talk}) as answer:
                assert answer.status == 200

    seen = [{c.body["messages"][0]["content"] for c in backend.asked} for backend in (one, two)]
    assert not seen[0] & seen[1]
    assert len(one.asked) + len(two.asked) == 4


@pytest.mark.parametrize("wildcard", [False, True])
async def test_events_of_a_backend_tell_what_it_holds(
    engine: MakeEngine, router: MakeRouter, tokenizer_dir: str, wildcard: bool
):
    publishers = [KvPublisher(), KvPublisher()]
    try:
        engines = []
        for publisher in publishers:
            source = publisher.source
            if wildcard:
                ports = [
                    one.rpartition(":")[2] for one in (source.endpoint, source.replay_endpoint)
                ]
                source = type(source)(f"tcp://*:{ports[0]}", f"tcp://*:{ports[1]}")
            engines.append(await engine(events=[source], tokenizer=tokenizer_dir))
            engines[-1].cached_tokens = 320
        for first, publisher in enumerate(publishers):
            publisher.store(numbers(first, 20), 16)
        app = await router(*engines)
        status = pool(app).frontend.status
        await until_all_exact(status)

        for first in (1, 0):
            await complete(app, numbers(first, 20))
        assert [c.body["prompt"][0] for c in engines[0].asked] == [0]
        assert [c.body["prompt"][0] for c in engines[1].asked] == [1000]
        assert [one.exact_audits for one in status().replicas] == [1, 1]
    finally:
        for publisher in publishers:
            publisher.close()


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"tokenize": lambda body: [1, 2, 3]}, "it tokenizes text and conversations and tools"),
        ({"block_size": 64}, "its blocks have 64 tokens, those of the others 16"),
    ],
)
async def test_events_that_cannot_be_matched_are_not_read(
    engine: MakeEngine,
    router: MakeRouter,
    tokenizer_dir: str,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    warning: str,
):
    publishers = [KvPublisher(), KvPublisher()]
    try:
        one = await engine(events=[publishers[0].source], tokenizer=tokenizer_dir)
        app = await router(one)
        two = await engine(events=[publishers[1].source], tokenizer=tokenizer_dir, **options)
        backends = {"backends": [one.url, two.url]}
        await app.fleet.apply(make_config(backends))
        await app.wait_until_up(2)
        trust = {each.replica: each.trust for each in status(app).replicas}
        publishers[0].store(numbers(1, 20), 16)
        while trust[f"127.0.0.1:{one.port}/0"] != "exact":
            await asyncio.sleep(0.01)
            trust = {each.replica: each.trust for each in status(app).replicas}
    finally:
        for publisher in publishers:
            publisher.close()
    assert trust[f"127.0.0.1:{two.port}/0"] == "silent"
    assert f"127.0.0.1:{two.port}: {warning}" in caplog.text
    assert f"127.0.0.1:{two.port}: it is taken to hold what was placed on it" in caplog.text


def status(app: App) -> SchedulerStatus:
    found = pool(app).frontend.status()
    assert found is not None
    return found


async def until_all_exact(status: Callable[[], SchedulerStatus]) -> None:
    while not all(  # noqa: ASYNC110 (events come through ZMQ, which has no event for that)
        one.trust == "exact" and one.resident_blocks == 20 for one in status().replicas
    ):
        await asyncio.sleep(0.01)
