"""The command itself: its file read again, its signals, its admin socket."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import aiohttp
import pytest

from preble_plugin.cli.main import main
from tests.serve.calls import numbers
from tests.serve.conftest import MakeEngine
from tests.serve.recorded_engine import RecordedEngine
from tests.serve.running import serving


def write(path: Path, *engines: RecordedEngine, **keys: object) -> None:
    path.write_text(
        json.dumps(
            {
                "backends": [one.url for one in engines],
                "health_interval_seconds": 0.1,
                **keys,
            }
        )
    )


async def test_backends_come_and_go_with_the_file(engine: MakeEngine, tmp_path: Path):
    one, two = await engine(), await engine()
    path = tmp_path / "serve.json"
    write(path, one)
    async with serving("--config", str(path)) as router:
        await router.says("serving at http://127.0.0.1:")
        await router.says(f"{one.port} is up")
        write(path, two)
        router.process.send_signal(signal.SIGHUP)
        await router.says(f"backend 127.0.0.1:{one.port} leaves")
        await router.says(f"{two.port} is up")

        path.write_text('{"backends": ["http://127.0.0.1:1"], "nonsense": 1}')
        router.process.send_signal(signal.SIGHUP)
        await router.says("stays as it was: unknown key 'nonsense'")

        write(path, one, two, tokenizer="another")
        await router.says("take effect at the next start: tokenizer")  # seen without a signal
        await router.says(f"{one.port} is up")


async def test_what_is_in_flight_ends_before_the_router_does(
    engine: MakeEngine, capsys: pytest.CaptureFixture[str]
):
    one = await engine()
    one.behave = "hold in the middle"
    async with serving("--backend", one.url) as router:
        port = (await router.says(r"serving at http://127.0.0.1:(\d+)"))[1]
        await router.says("is up")
        base = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as session:
            body = {"prompt": numbers(1, 4), "stream": True}
            named = {"X-Request-Id": "mine"}
            asking = session.post(base + "/v1/completions", json=body, headers=named)
            async with asking as answer:
                await answer.content.readuntil(b"\n\n")
                assert main(["explain", "mine"]) == 0
                assert main(["status"]) == 0
                shown = capsys.readouterr().out
                assert f"127.0.0.1:{one.port}/0" in shown

                router.process.send_signal(signal.SIGTERM)
                await router.says("1 requests in flight have 60 s to end")
                one.go.set()
                assert (await answer.content.read()).endswith(b"data: [DONE]\n\n")
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(base + "/health")
        assert await router.process.wait() == 0


async def test_a_second_signal_does_not_wait(engine: MakeEngine):
    one = await engine()
    one.behave = "hold"
    async with serving("--backend", one.url) as router:
        port = (await router.says(r"serving at http://127.0.0.1:(\d+)"))[1]
        await router.says("is up")
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port}/v1/completions"
            asking = asyncio.ensure_future(session.post(url, json={"prompt": [1]}))
            await one.held.wait()
            router.process.send_signal(signal.SIGTERM)
            await router.says("have 60 s to end")
            router.process.send_signal(signal.SIGTERM)
            assert await router.process.wait() == 0
            await asyncio.wait([asking])
            assert asking.exception() is not None
        await one.left.wait()


async def test_the_public_port_is_on_loopback(engine: MakeEngine):
    one = await engine()
    async with serving("--backend", one.url) as router:
        port = int((await router.says(r"serving at http://127.0.0.1:(\d+)"))[1])
        assert listening_at(port) == {f"0100007F:{port:04X}"}


def listening_at(port: int) -> set[str]:
    """The addresses, as the kernel writes them, that sockets listen at."""
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()
    ]
    return {line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{port:04X}")}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "'backends' takes a list of at least one URL"),
        (["--backend", "localhost:8000"], "is not http://HOST:PORT"),
        (["--config", "/nowhere.yaml"], "cannot be read: No such file"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_remedy(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["serve", *arguments]) == 2
    assert word in capsys.readouterr().err


async def test_a_port_that_is_taken_is_named(engine: MakeEngine):
    one = await engine()
    async with serving("--backend", one.url, "--port", str(one.port)) as router:
        await router.says(f"{one.port}.*address already in use")
        assert await router.process.wait() == 1
