"""Real engines for tests: one server at a time, shared by tests that want the same.

    @serving(Serving(flags=("--dp-scheduler", "preble")))
    def test_it_answers(server: VllmServer) -> None: ...

Tests that ask for the same `Serving` run one after the other on one server; a
test that needs a server to itself, or several in a row, takes `engine_room`
and calls `engine_room.serve(...)` or `engine_room.fresh(...)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from preble_plugin.bench.stage import ENVIRONMENT
from preble_plugin.bench.tiny_model import make_tiny_model
from preble_plugin.bench.vllm_server import TWO_REPLICAS, ServerError, VllmServer

TINY_MODEL = Path(__file__).parent.parent / ".cache" / "tiny-model"


@dataclass(frozen=True)
class Serving:
    """How a server is to run: `base` flags, then `flags`, and the environment
    laid over the stage's `ENVIRONMENT` as pairs (None removes a variable)."""

    flags: tuple[str, ...] = ()
    environment: tuple[tuple[str, str | None], ...] = ()
    base: tuple[str, ...] = field(default=tuple(TWO_REPLICAS))

    def __str__(self) -> str:
        pairs = [f"{key}={value}" for key, value in self.environment]
        return " ".join([*pairs, *self.flags]) or "plain"


def serving(*wanted: Serving) -> pytest.MarkDecorator:
    """Run a test (or, as `pytestmark`, a module) on a server of each kind."""
    return pytest.mark.parametrize("server_kind", wanted, ids=str, scope="session")


class EngineRoom:
    """Keeps at most one server running."""

    def __init__(self, logs: Path) -> None:
        self.model = make_tiny_model(TINY_MODEL)
        self._logs = logs
        self._started = 0
        self._kind: Serving | None = None
        self._server: VllmServer | None = None

    def serve(self, kind: Serving) -> VllmServer:
        """The running server if it is of this kind and alive, else a new one."""
        if self._server is not None and self._kind == kind and self._server.alive:
            return self._server
        return self.fresh(kind)

    def fresh(self, kind: Serving) -> VllmServer:
        """A new server of this kind, with an empty cache. Raises `ServerError`."""
        self.close()
        server = self._build(kind)
        server.start()
        self._kind, self._server = kind, server
        return server

    def refused(self, kind: Serving) -> str:
        """What a server of this kind writes before it ends by itself."""
        self.close()
        server = self._build(kind)
        try:
            server.start()
        except ServerError:
            return server.log_text()
        finally:
            server.stop()
        pytest.fail(f"the server came up: {kind}")

    def close(self) -> None:
        """End the running server, if there is one."""
        if self._server is not None:
            self._server.stop()
        self._kind = self._server = None

    def _build(self, kind: Serving) -> VllmServer:
        self._started += 1
        return VllmServer(
            self.model,
            self._logs / f"vllm-{self._started}.log",
            (*kind.base, *kind.flags),
            {**ENVIRONMENT, **dict(kind.environment)},
        )
