"""What comes back: as the engine said it, whichever client asks."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from preble_plugin.core import SchedulerStatus
from preble_plugin.serve.app import App
from tests.serve.calls import client, complete, numbers, pool
from tests.serve.conftest import MakeEngine, MakeRouter


def openai_client(app: App) -> openai.AsyncOpenAI:
    base = f"http://127.0.0.1:{app.port}/v1"
    return openai.AsyncOpenAI(base_url=base, api_key="a key", max_retries=0)


def status(app: App) -> SchedulerStatus:
    found = pool(app).frontend.status()
    assert found is not None
    return found


async def test_the_openai_client_streams_chat(engine: MakeEngine, router: MakeRouter):
    one = await engine()
    app = await router(one)
    async with openai_client(app) as asking:
        stream = await asking.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Count."}], stream=True
        )
        words = [chunk.choices[0].delta.content async for chunk in stream]

    assert words == ["one ", "two ", "three"]
    assert one.asked[0].headers["Authorization"] == "Bearer a key"


async def test_the_openai_client_streams_tool_calls(engine: MakeEngine, router: MakeRouter):
    app = await router(await engine())
    function = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
    async with openai_client(app) as asking:
        stream = await asking.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "Weather?"}],
            tools=[{"type": "function", "function": function}],
            stream=True,
        )
        calls = [chunk.choices[0].delta.tool_calls async for chunk in stream]

    assert [call[0].function.name for call in calls if call] == ["weather"] * 3


async def test_the_openai_client_gets_whole_answers_and_usage(
    engine: MakeEngine, router: MakeRouter
):
    one = await engine()
    one.cached_tokens = 3
    app = await router(one)
    async with openai_client(app) as asking:
        chat = await asking.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Count."}]
        )
        text = await asking.completions.create(model="tiny", prompt="Count.")
        models = [model.id async for model in asking.models.list()]

    assert chat.choices[0].message.content == text.choices[0].text == "one two three"
    assert chat.usage is not None
    assert chat.usage.prompt_tokens_details is not None
    assert chat.usage.prompt_tokens_details.cached_tokens == 3
    assert models == ["tiny"]


async def test_an_engines_refusal_goes_on_as_it_is(engine: MakeEngine, router: MakeRouter):
    one = await engine()
    one.behave = "refuse"
    app = await router(one)
    async with openai_client(app) as asking:
        with pytest.raises(openai.BadRequestError) as raised:
            await asking.completions.create(model="tiny", prompt=[1, 2, 3])
    assert raised.value.body == {"message": "wrong", "type": "BadRequestError", "code": 400}
    assert (status(app).in_flight, len(one.asked)) == (0, 1)


async def test_the_routers_own_errors_are_the_openai_clients(
    engine: MakeEngine, router: MakeRouter
):
    app = await router(await engine(model="a"), await engine(model="b"))
    async with openai_client(app) as asking:
        with pytest.raises(openai.NotFoundError) as raised:
            await asking.completions.create(model="none", prompt="Count.")
    assert (raised.value.code, raised.value.type) == ("model_not_found", "not_found_error")


async def test_a_stream_is_passed_on_as_it_comes(engine: MakeEngine, router: MakeRouter):
    one = await engine()
    one.behave = "hold in the middle"
    app = await router(one)
    body = {"prompt": numbers(1, 4), "stream": True}
    async with client(app) as session, session.post("/v1/completions", json=body) as answer:
        first = await answer.content.readuntil(b"\n\n")
        assert b"one " in first
        assert status(app).in_flight == 1
        one.go.set()
        rest = await answer.content.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    assert status(app).in_flight == 0


async def test_the_scheduler_hears_of_first_tokens_ends_and_hits(
    engine: MakeEngine, router: MakeRouter
):
    one = await engine()
    app = await router(one)
    body = {"prompt": numbers(1, 4), "stream": True, "stream_options": {"include_usage": True}}
    async with client(app) as session:
        for request_id, cached in (("cold", 0), ("warm", 64)):
            one.cached_tokens = cached
            headers = {"X-Request-Id": request_id}
            async with session.post("/v1/completions", json=body, headers=headers) as answer:
                await answer.read()
                assert answer.headers["X-Request-Id"] == request_id
    explain = pool(app).frontend.host.explain
    cold, warm = explain("cold")[0], explain("cmpl-warm")[0]

    assert [one.predicted_cached_tokens for one in (cold, warm)] == [0, 64]
    assert [one.actual_cached_tokens for one in (cold, warm)] == [0, 64]
    assert [one.output_tokens for one in (cold, warm)] == [3, 3]
    assert cold.first_token_seconds is not None
    assert status(app).replicas[0].exact_audits == 2


async def post(app: App, path: str, body: dict[str, Any], request_id: str) -> None:
    async with (
        client(app) as session,
        session.post(path, json=body, headers={"X-Request-Id": request_id}) as answer,
    ):
        await answer.read()


async def test_usage_without_a_hit_tells_of_none_once_a_hit_was_told(
    engine: MakeEngine, router: MakeRouter
):
    """As vLLM's Rust front end answers. What has no usage tells nothing."""
    one = await engine()
    app = await router(one)
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    for number, (cached, asked) in enumerate(
        [(None, usage), (64, usage), (None, usage), (None, {"stream": True}), (None, {})]
    ):
        one.cached_tokens = cached
        body = {"prompt": numbers(1, 4), **asked}
        await post(app, "/v1/completions", body, str(number))
    await post(app, "/v1/chat/completions", {"messages": []}, "chat")
    explain = pool(app).frontend.host.explain
    found = [explain(name)[0].actual_cached_tokens for name in ("0", "1", "2", "3", "4", "chat")]
    assert found == [None, 64, 0, None, 0, None]

    one.well = False
    while app.fleet.up:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    one.well = True
    await app.wait_until_up(1)
    await post(app, "/v1/completions", {"prompt": numbers(1, 4)}, "started anew")
    assert explain("started anew")[0].actual_cached_tokens is None


async def test_an_answer_that_comes_whole_audits_but_times_nothing(
    engine: MakeEngine, router: MakeRouter
):
    one = await engine()
    one.cached_tokens = 0
    app = await router(one)
    await complete(app, numbers(1, 4))
    (receipt,) = pool(app).frontend.host.explain(one.asked[0].headers["X-Request-Id"])

    assert (receipt.actual_cached_tokens, receipt.output_tokens) == (0, 3)
    assert receipt.first_token_seconds is None


async def test_a_client_that_leaves_ends_its_request(engine: MakeEngine, router: MakeRouter):
    one = await engine()
    one.behave = "hold"
    app = await router(one)
    asking = asyncio.ensure_future(complete(app, numbers(1, 4)))
    await one.held.wait()
    asking.cancel()
    await one.left.wait()

    one.behave = "answer"
    assert (await complete(app, numbers(2, 4)))[0] == 200
    assert (status(app).in_flight, app.router.in_flight) == (0, 0)


async def test_a_client_that_leaves_in_the_middle_ends_its_request(
    engine: MakeEngine, router: MakeRouter
):
    one = await engine()
    one.behave = "hold in the middle"
    app = await router(one)
    body = {"prompt": numbers(1, 4), "stream": True}
    async with client(app) as session, session.post("/v1/completions", json=body) as answer:
        await answer.content.readuntil(b"\n\n")
        answer.close()
    await one.left.wait()

    one.behave = "answer"
    assert (await complete(app, numbers(2, 4)))[0] == 200
    assert status(app).in_flight == 0
