"""A real router of ours, at its two ports."""

from __future__ import annotations

from typing import Any

from preble_plugin.doctor.finding import Finding
from preble_plugin.doctor.server import Wanted, look_at_server
from preble_plugin.serve.app import App
from tests.doctor.told import bad, states, the
from tests.serve.conftest import MakeEngine, MakeRouter


async def look(port: int | None, **wanted: Any) -> list[Finding]:
    return await look_at_server(Wanted(f"http://127.0.0.1:{port}", **wanted))


async def at_metrics(app: App) -> list[Finding]:
    return await look(app.metrics_port)


async def test_the_public_port(engine: MakeEngine, router: MakeRouter) -> None:
    app = await router(await engine(), await engine())
    findings = await look(app.port)
    assert bad(findings) == {}
    assert the(findings, "answers").words == "a router of preble's, with 2 backends up"


async def test_a_probe_goes_through_it(engine: MakeEngine, router: MakeRouter) -> None:
    one = await engine()
    one.cached_tokens = 256
    findings = await look((await router(one)).port, probe=True)
    assert states(findings, "probe") == ["ok"]
    assert len(one.asked) == 2


async def test_a_router_without_backends(engine: MakeEngine, router: MakeRouter) -> None:
    one = await engine()
    await one.stop()
    findings = await look((await router(one, up=0)).port)
    assert bad(findings) == {"answers": "fail"}


async def test_the_port_of_metrics(engine: MakeEngine, router: MakeRouter) -> None:
    app = await router(await engine(), await engine(), metrics_port=0)
    findings = await at_metrics(app)
    assert the(findings, "answers").words == "metrics of a router of preble's, with 2 backends"
    assert states(findings, "backend") == ["warn", "warn"]  # no events
    assert the(findings, "blocks").words == "the backends of tiny agree: 16 tokens"
    assert states(findings, "preble") == ["ok"]


async def test_a_backend_whose_events_are_read(
    engine: MakeEngine, router: MakeRouter, publisher: Any, tokenizer_dir: str
) -> None:
    one = await engine(events=[publisher.source], tokenizer=tokenizer_dir)
    app = await router(one, metrics_port=0)
    assert the(await at_metrics(app), "backend").state == "ok"


async def test_a_backend_that_is_not_up(engine: MakeEngine, router: MakeRouter) -> None:
    one, two = await engine(), await engine()
    await two.stop()
    app = await router(one, two, up=1, metrics_port=0)
    assert sorted(states(await at_metrics(app), "backend")) == ["fail", "warn"]


async def test_backends_of_different_blocks(engine: MakeEngine, router: MakeRouter) -> None:
    app = await router(await engine(), await engine(block_size=32), metrics_port=0)
    found = the(await at_metrics(app), "blocks")
    assert found.state == "warn"
    assert "blocks of 16 and 32 tokens" in found.words
