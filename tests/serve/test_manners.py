"""Limits, header fields, paths that are passed through, keys."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

import pytest

from tests.serve.calls import client, complete, numbers, pool
from tests.serve.conftest import MakeEngine, MakeRouter


async def test_more_requests_than_allowed_are_told_when_to_come_again(
    engine: MakeEngine, router: MakeRouter
):
    one = await engine()
    one.behave = "hold"
    app = await router(one, max_in_flight=2)
    asked = [asyncio.ensure_future(complete(app, numbers(first, 4))) for first in range(2)]
    await one.until_came(2)
    async with (
        client(app) as session,
        session.post("/v1/completions", json={"prompt": [1]}) as answer,
    ):
        assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
        error = (await answer.json())["error"]
    assert (error["code"], error["type"]) == ("too_many_requests", "rate_limit_error")

    one.go.set()
    assert {status for status, _ in await asyncio.gather(*asked)} == {200}
    one.behave = "answer"
    assert (await complete(app, numbers(3, 4)))[0] == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_request_that_is_too_large_is_refused(
    engine: MakeEngine, router: MakeRouter, chunked: bool
):
    app = await router(await engine(), max_body_megabytes=0.01)

    async def pieces():
        for _ in range(20):
            yield b" " * 1024

    async with client(app) as session:
        data = pieces() if chunked else b" " * 20_480
        async with session.post("/v1/completions", data=data) as answer:
            assert answer.status == 413
            assert (await answer.json())["error"]["code"] == "request_too_large"
    assert (await complete(app, [1, 2, 3]))[0] == 200


async def test_a_request_that_does_not_come_whole_is_ended(engine: MakeEngine, router: MakeRouter):
    app = await router(await engine(), body_timeout_seconds=0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
    said = await reader.readuntil(b"\r\n")
    writer.close()
    assert said == b"HTTP/1.1 408 Request Timeout\r\n"
    assert app.router.in_flight == 0
    assert (await complete(app, [1, 2, 3]))[0] == 200


async def test_fields_of_one_connection_stay_on_it(engine: MakeEngine, router: MakeRouter):
    one = await engine()
    app = await router(one)
    sent = {
        "Connection": "keep-alive, X-Mine",
        "X-Mine": "1",
        "Keep-Alive": "timeout=9",
        "TE": "trailers",
        "Proxy-Authorization": "Basic x",
        "X-Theirs": "2",
        "Authorization": "Bearer k",
        "User-Agent": "someone",
    }
    async with (
        client(app) as session,
        session.post("/v1/completions", json={"prompt": [1]}, headers=sent) as answer,
    ):
        assert answer.headers.getall("Content-Type") == ["application/json; charset=utf-8"]
        assert len(answer.headers.getall("Date")) == 1
        assert "Keep-Alive" not in answer.headers
    got = one.asked[0].headers
    for name in ("X-Mine", "Keep-Alive", "TE", "Proxy-Authorization"):
        assert name not in got
    assert (got["X-Theirs"], got["Authorization"], got["User-Agent"]) == (
        "2",
        "Bearer k",
        "someone",
    )
    assert got["Host"] == one.url.removeprefix("http://")


async def test_unknown_paths_go_to_the_least_busy_backend(engine: MakeEngine, router: MakeRouter):
    one, two = await engine(), await engine()
    app = await router(one, two)
    one.behave = two.behave = "hold"
    asking = asyncio.ensure_future(complete(app, numbers(1, 4)))
    waiting = asyncio.ensure_future(one.held.wait()), asyncio.ensure_future(two.held.wait())
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    busy, idle = (one, two) if one.held.is_set() else (two, one)
    async with client(app) as session:
        for _ in range(3):
            async with session.delete("/v1/things/a%2Fb?x=%20y&x=2") as answer:
                told = await answer.json()
    for each in waiting:
        each.cancel()
    one.go.set()
    two.go.set()
    await asking

    assert told == {"path": "/v1/things/a%2Fb?x=%20y&x=2", "method": "DELETE"}
    assert (len(idle.came), len(busy.came)) == (3, 1)


async def test_unknown_paths_can_be_closed(engine: MakeEngine, router: MakeRouter):
    one = await engine()
    app = await router(one, pass_through=False)
    async with client(app) as session:
        for path in ("/flush_cache", "/metrics"):
            async with session.post(path) as answer:
                assert answer.status == 404
        async with session.post("/v1/completions", json={"prompt": [1]}) as answer:
            assert answer.status == 200
    assert [came.path for came in one.came] == ["/v1/completions"]


async def test_the_metrics_of_no_backend_are_at_the_public_port(
    engine: MakeEngine, router: MakeRouter
):
    app = await router(await engine())
    async with client(app) as session, session.get("/metrics") as answer:
        assert answer.status == 404


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"prompt": {"a": 1}}', b"\xff"])
async def test_what_is_no_request_is_for_the_engine_to_refuse(
    engine: MakeEngine, router: MakeRouter, body: bytes
):
    one = await engine()
    one.behave = "refuse"
    app = await router(one)
    async with client(app) as session, session.post("/v1/completions", data=body) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["message"] == "wrong"
    assert len(one.asked) == 1


async def test_a_compressed_body_goes_on_as_it_came(engine: MakeEngine, router: MakeRouter):
    one = await engine()
    app = await router(one)
    data, packed = gzip.compress(b'{"prompt": [1]}'), {"Content-Encoding": "gzip"}
    async with (
        client(app) as session,
        session.post("/v1/completions", data=data, headers=packed) as answer,
    ):
        assert answer.status == 200
    assert one.asked[0].body == {"prompt": [1]}  # which the engine unpacked


async def test_parts_of_no_known_type_are_for_the_engine_to_refuse(
    engine: MakeEngine, router: MakeRouter, caplog: pytest.LogCaptureFixture
):
    one = await engine()
    one.behave = "refuse"
    app = await router(one)
    messages = [{"role": "user", "content": [{"type": {}, "text": "Hi"}]}]
    async with client(app) as session:
        for path, body in (
            ("/v1/chat/completions", {"messages": messages}),
            ("/v1/responses", {"input": messages}),
        ):
            async with session.post(path, json=body) as answer:
                assert answer.status == 400
    assert "preble failed" not in caplog.text


async def test_what_is_no_http_is_refused_and_not_logged(
    engine: MakeEngine, router: MakeRouter, caplog: pytest.LogCaptureFixture
):
    app = await router(await engine())
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\x00\r\n\r\n")
    assert b" 400 " in await reader.readline()
    writer.close()
    assert "secret" not in caplog.text


async def test_token_ids_that_are_none_are_for_the_engine_to_refuse(
    engine: MakeEngine, router: MakeRouter
):
    one = await engine()
    one.behave = "refuse"
    app = await router(one)
    for tokens in ([-1] * 40, [1 << 70] * 40, [1, "a"] * 40):
        assert (await complete(app, tokens))[0] == 400


async def test_a_client_that_waits_to_be_told_to_go_on_is_told(
    engine: MakeEngine, router: MakeRouter
):
    one = await engine()
    app = await router(one)
    async with client(app) as session:
        data = b'{"prompt": [1]}'
        async with session.post("/v1/completions", data=data, expect100=True) as answer:
            assert answer.status == 200
    assert "Expect" not in one.asked[0].headers


async def test_a_backends_key_is_read_from_a_file_and_sent_where_the_client_has_none(
    engine: MakeEngine, router: MakeRouter, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "key").write_text("the-secret\n")
    one = await engine(key="the-secret")
    backend = {"url": one.url, "api_key_file": str(tmp_path / "key")}
    app = await router(one, backends=[backend])

    assert (await complete(app, [1, 2, 3]))[0] == 200
    async with client(app) as session:
        mine = {"Authorization": "Bearer another"}
        async with session.post("/v1/completions", json={}, headers=mine) as answer:
            assert answer.status == 401
    assert "the-secret" not in caplog.text


async def test_a_request_id_that_is_in_flight_already_is_told_apart(
    engine: MakeEngine, router: MakeRouter
):
    one = await engine()
    one.behave = "hold"
    app = await router(one)

    async def ask(first: int) -> int:
        body, headers = {"prompt": numbers(first, 4)}, {"X-Request-Id": "same"}
        async with (
            client(app) as session,
            session.post("/v1/completions", json=body, headers=headers) as answer,
        ):
            assert answer.headers["X-Request-Id"] == "same"
            return answer.status

    asked = [asyncio.ensure_future(ask(0))]
    await one.until_came(1)
    app.router.configure(app.config)  # a reload forgets none
    asked.append(asyncio.ensure_future(ask(1)))
    await one.until_came(2)
    status = pool(app).frontend.status()
    assert status is not None
    assert status.in_flight == 2
    one.go.set()
    assert await asyncio.gather(*asked) == [200, 200]
