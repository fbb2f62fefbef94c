from __future__ import annotations

import pytest

from preble_plugin.bench.vllm_server import VllmServer
from tests.engines import EngineRoom, Serving


@pytest.fixture
def server_kind() -> Serving:
    """How `server` runs; `serving(...)` says otherwise."""
    return Serving()


@pytest.fixture
def server(engine_room: EngineRoom, server_kind: Serving) -> VllmServer:
    """A real `vllm serve`, shared with the tests before that wanted the same."""
    return engine_room.serve(server_kind)
