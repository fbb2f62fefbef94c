"""Backends that fail, are busy, go and come back."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from preble_plugin.serve.app import App
from tests.serve.calls import client, complete, numbers, pool
from tests.serve.conftest import MakeEngine, MakeRouter


async def until_up(app: App, backends: int) -> None:
    """Until so many are up, and no more."""
    while len(app.fleet.up) != backends:
        app._changed.clear()
        await app._changed.wait()


@pytest.mark.parametrize("failure", ["break off", "busy"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_without_an_answer_goes_elsewhere(
    engine: MakeEngine, router: MakeRouter, failure: str, stream: bool
):
    one, two = await engine(), await engine()
    app = await router(one, two)
    one.behave = failure
    async with client(app) as session:
        for first in range(8):
            body = {"prompt": numbers(first, 4), "stream": stream}
            async with session.post("/v1/completions", json=body) as answer:
                assert answer.status == 200
                assert b"three" in await answer.read()

    assert len(two.asked) == 8
    assert pool(app).frontend.status().in_flight == 0


async def test_an_answer_that_has_begun_is_not_begun_anew(engine: MakeEngine, router: MakeRouter):
    one = await engine()
    one.behave = "break off in the middle"
    two = await engine()
    two.behave = "break off in the middle"
    app = await router(one, two)
    body = {"prompt": numbers(1, 4), "stream": True}
    async with client(app) as session, session.post("/v1/completions", json=body) as answer:
        assert b"one " in await answer.content.readuntil(b"\n\n")
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()

    assert len(one.asked) + len(two.asked) == 1
    assert pool(app).frontend.status().in_flight == 0


async def test_where_all_are_busy_the_last_word_is_theirs(engine: MakeEngine, router: MakeRouter):
    one, two = await engine(), await engine()
    one.behave = two.behave = "busy"
    app = await router(one, two)
    asking = {"json": {"prompt": [1]}}
    async with client(app) as session, session.post("/v1/completions", **asking) as answer:
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "7"
        assert (await answer.json())["error"]["message"] == "too busy"
    assert (len(one.asked), len(two.asked)) == (1, 1)


async def test_where_all_break_off_the_router_says_so(engine: MakeEngine, router: MakeRouter):
    one, two = await engine(), await engine()
    one.behave = two.behave = "break off"
    app = await router(one, two)
    status, answer = await complete(app, numbers(1, 4))

    assert (status, answer["error"]["code"]) == (502, "backend_failed")
    assert (len(one.asked), len(two.asked)) == (1, 1)


async def test_what_may_not_be_sent_twice_is_not(engine: MakeEngine, router: MakeRouter):
    one, two = await engine(), await engine()

    app = await router(one, two)
    one.behave = two.behave = "break off"
    async with client(app) as session:
        async with session.post("/v1/files", json={}) as answer:
            assert answer.status == 502
        assert len(one.came) + len(two.came) == 1
        async with session.get("/v1/files") as answer:
            assert answer.status == 502
    assert all(any(each.method == "GET" for each in backend.came) for backend in (one, two))


async def test_a_backend_that_is_gone_gets_no_requests_and_returns(
    engine: MakeEngine, router: MakeRouter
):
    one, two = await engine(), await engine()
    app = await router(one, two)
    await one.stop()
    for first in range(4):
        assert (await complete(app, numbers(first, 4)))[0] == 200
    await until_up(app, 1)
    assert len(two.asked) == 4

    await one.start()
    await until_up(app, 2)
    two.behave = "hold"
    asked = [asyncio.ensure_future(complete(app, numbers(10 + i, 4))) for i in range(4)]
    await one.until_came(2)
    two.go.set()
    assert {status for status, _ in await asyncio.gather(*asked)} == {200}


async def test_a_health_that_takes_its_time_is_awaited_where_it_generates(
    engine: MakeEngine, router: MakeRouter
):
    """SGLang's waits for its schedulers, which may be in a long prefill."""
    vllm, sglang = await engine(), await engine(engine="sglang")
    app = await router(vllm, sglang, health_timeout_seconds=0.1)
    vllm.tells.clear()
    sglang.tells.clear()
    await until_up(app, 1)
    assert [one.name for one in app.fleet.up] == [sglang.url.removeprefix("http://")]
    vllm.tells.set()
    await until_up(app, 2)


async def test_a_backend_that_is_not_well_is_ejected_until_it_is(
    engine: MakeEngine, router: MakeRouter
):
    one, two = await engine(), await engine()
    app = await router(one, two, metrics_port=0)
    one.well = False
    await until_up(app, 1)
    for first in range(4):
        assert (await complete(app, numbers(first, 4)))[0] == 200
    assert len(two.asked) == 4
    base = f"http://127.0.0.1:{app.metrics_port}"
    async with aiohttp.ClientSession(base) as session:
        async with session.get("/backends") as answer:
            shown = {each["backend"]: each for each in await answer.json()}
        async with session.get("/metrics") as answer:
            page = await answer.text()
    name = one.url.removeprefix("http://")
    assert (shown[name]["state"], shown[name]["cause"]) == (
        "ejected",
        "/health is answered with 503",
    )
    assert f'preble:backend_up{{backend="{name}"}} 0.0' in page
    assert "preble:placements_total" in page

    one.well = True
    await until_up(app, 2)


async def test_without_a_backend_the_router_says_when_to_come_again(
    engine: MakeEngine, router: MakeRouter
):
    one = await engine()
    one.well = False
    app = await router(one, up=0)
    async with client(app) as session:
        async with session.get("/health") as answer:
            assert answer.status == 503
        async with session.post("/v1/completions", json={"prompt": [1]}) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert (await answer.json())["error"]["code"] == "no_backend"
        one.well = True
        await until_up(app, 1)
        async with session.get("/health") as answer:
            assert answer.status == 200


async def test_a_backend_that_says_nothing_is_not_waited_for_for_ever(
    engine: MakeEngine, router: MakeRouter
):
    one = await engine()
    one.behave = "hold"
    app = await router(one, silence_timeout_seconds=0.2)
    status, answer = await complete(app, numbers(1, 4))

    assert (status, answer["error"]["code"]) == (504, "backend_timeout")
    await one.left.wait()


async def test_no_request_is_lost_or_answered_twice_while_one_of_three_goes_and_returns(
    engine: MakeEngine, router: MakeRouter
):
    engines = [await engine() for _ in range(3)]
    app = await router(*engines)
    done = 0
    news = asyncio.Event()

    async def ask(first: int) -> tuple[int, bytes]:
        nonlocal done
        body = {"prompt": numbers(first % 20, 8), "stream": True}
        async with client(app) as session, session.post("/v1/completions", json=body) as answer:
            found = answer.status, await answer.read()
        done += 1
        news.set()
        return found

    async def some(worker: int) -> list[tuple[int, bytes]]:
        return [await ask(worker * 100 + number) for number in range(5)]

    async def until_done(requests: int) -> None:
        while done < requests:
            news.clear()
            await news.wait()

    asked = [asyncio.ensure_future(some(worker)) for worker in range(64)]
    await until_done(60)
    engines[0].behave = "break off"  # the requests that it has not begun to answer
    await engines[0].until_came(len(engines[0].asked) + 1)
    await engines[0].stop()
    await until_done(150)
    engines[0].behave = "answer"
    await engines[0].start()
    answers = [one for some in await asyncio.gather(*asked) for one in some]

    assert len(answers) == 320
    assert {status for status, _ in answers} == {200}
    assert all(body.count(b"[DONE]") == 1 and body.count(b"one ") == 1 for _, body in answers)
