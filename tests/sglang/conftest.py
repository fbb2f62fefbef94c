from __future__ import annotations

import pytest

from preble_plugin.bench.sglang_server import SglangServer
from tests.engines import EngineRoom, SglangServing


@pytest.fixture
def server_kind() -> SglangServing:
    """How `server` runs; `serving(...)` says otherwise."""
    return SglangServing()


@pytest.fixture
def server(engine_room: EngineRoom, server_kind: SglangServing) -> SglangServer:
    """A real `sglang.launch_server`, shared with the tests before that wanted the same."""
    return engine_room.serve(server_kind)
