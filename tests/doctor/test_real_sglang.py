"""Real SGLang servers of two ranks, as other tests have them anyway."""

from __future__ import annotations

import asyncio

import pytest

from preble_plugin.bench.sglang_server import SglangServer
from preble_plugin.doctor.running import look_at_running
from preble_plugin.doctor.server import Wanted, look_at_server
from tests.doctor.told import bad, states, the
from tests.engines import EngineRoom, SglangServing, serving
from tests.engines.preble import RUN_DIR
from tests.sglang.preble_servers import OWN, PAGE, TWO

pytestmark = pytest.mark.sglang


@pytest.fixture
def server(engine_room: EngineRoom, server_kind: SglangServing) -> SglangServer:
    """A server that may have served other tests before."""
    return engine_room.serve(server_kind)


@serving(TWO)
async def test_placement_that_is_on(server: SglangServer, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = await look_at_server(Wanted(server.base_url, probe=True, timeout_seconds=20))
    assert bad(findings) == {}
    assert the(findings, "version").words.startswith("0.5.")
    assert the(findings, "front door").words == "the Python one"
    assert the(findings, "blocks").words == f"of {PAGE} tokens, 256 in the cache of each rank"
    assert the(findings, "event sources").words.endswith("the server reads its own")
    assert the(findings, "probe").words.endswith("0 and then 256 found cached")

    monkeypatch.setenv("PREBLE_RUN_DIR", str(RUN_DIR))
    running = await asyncio.to_thread(look_at_running)
    assert (states(running, "running"), states(running, "events")) == (["ok"], ["ok"])


@serving(OWN)
async def test_placement_that_is_not_on(server: SglangServer) -> None:
    findings = await look_at_server(Wanted(server.base_url, probe=True, timeout_seconds=20))
    assert bad(findings) == {"preble": "warn", "event sources": "warn"}
    assert the(findings, "probe").words == (
        "the same 257 tokens sent twice to rank 0: 0 and then 256 found cached"
    )
