"""Real engines for tests: one server at a time, shared by tests that want the same.

    @serving(Serving(flags=("--dp-scheduler", "preble")))
    def test_it_answers(server: VllmServer) -> None: ...

Tests that ask for the same kind of server run one after the other on one server;
a test that needs a server to itself, or several in a row, takes `engine_room` and
calls `engine_room.serve(...)` or `engine_room.fresh(...)`. There is one room for
both engines: `Serving` is a `vllm serve`, `SglangServing` a `sglang.launch_server`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import pytest

from preble_plugin.bench import sglang_server, vllm_server
from preble_plugin.bench.engines import Sglang, Vllm
from preble_plugin.bench.server import Server, ServerError
from preble_plugin.bench.sglang_server import SglangServer
from preble_plugin.bench.tiny_model import make_tiny_model
from preble_plugin.bench.vllm_server import VllmServer
from tests.engines.tiny_qwen3 import make_tiny_qwen3

ROOT: Final = Path(__file__).parents[2]
TINY_MODEL: Final = ROOT / ".cache" / "tiny-model"
TINY_QWEN3: Final = ROOT / ".cache" / "tiny-qwen3"
STANDINS: Final = Path(__file__).parent / "sglang_standins"
"""Goes on the PYTHONPATH of SGLang's processes, and of no other."""
SGLANG_ENVIRONMENT: Final[Mapping[str, str | None]] = Sglang(STANDINS).environment
"""For programs that start SGLang themselves; None removes a variable."""

AnyServer = TypeVar("AnyServer", bound=Server)


@dataclass(frozen=True)
class Kind(ABC, Generic[AnyServer]):
    """How a server is to run: `base` flags, then `flags`, and the environment laid
    over that of the demo as pairs (None removes a variable)."""

    flags: tuple[str, ...] = ()
    environment: tuple[tuple[str, str | None], ...] = ()
    base: tuple[str, ...] = ()

    def __str__(self) -> str:
        pairs = [f"{key}={value}" for key, value in self.environment]
        return " ".join([*pairs, *self.flags]) or "plain"

    @abstractmethod
    def build(self, log: Path) -> AnyServer:
        """A server of this kind, not yet started."""


@dataclass(frozen=True)
class Serving(Kind[VllmServer]):
    """A `vllm serve`."""

    base: tuple[str, ...] = tuple(vllm_server.TWO_REPLICAS)

    def build(self, log: Path) -> VllmServer:
        model = make_tiny_model(TINY_MODEL)
        environment = {**Vllm().environment, **dict(self.environment)}
        return VllmServer(model, log, (*self.base, *self.flags), environment)


@dataclass(frozen=True)
class SglangServing(Kind[SglangServer]):
    """A `sglang.launch_server`; `qwen3` for DP attention, which Llama has not."""

    base: tuple[str, ...] = tuple(sglang_server.TWO_REPLICAS)
    qwen3: bool = False

    def build(self, log: Path) -> SglangServer:
        model = make_tiny_qwen3(TINY_QWEN3) if self.qwen3 else make_tiny_model(TINY_MODEL)
        environment = {**SGLANG_ENVIRONMENT, **dict(self.environment)}
        return SglangServer(model, log, (*self.base, *self.flags), environment)


def serving(*wanted: Kind[Any]) -> pytest.MarkDecorator:
    """Run a test (or, as `pytestmark`, a module) on a server of each kind."""
    return pytest.mark.parametrize("server_kind", wanted, ids=str, scope="session")


class EngineRoom:
    """Keeps at most one server running, of whichever engine."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._started = 0
        self._kind: Kind[Any] | None = None
        self._server: Server | None = None

    def serve(self, kind: Kind[AnyServer]) -> AnyServer:
        """The running server if it is of this kind and alive, else a new one."""
        if self._server is not None and self._kind == kind and self._server.alive:
            return self._server  # type: ignore[return-value]  # its kind built it
        return self.fresh(kind)

    def fresh(self, kind: Kind[AnyServer]) -> AnyServer:
        """A new server of this kind, with an empty cache. Raises `ServerError`."""
        self.close()
        server = self._build(kind)
        server.start()
        self._kind, self._server = kind, server
        return server

    def refused(self, kind: Kind[AnyServer]) -> str:
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

    def _build(self, kind: Kind[AnyServer]) -> AnyServer:
        self._started += 1
        return kind.build(self._logs / f"server-{self._started}.log")
