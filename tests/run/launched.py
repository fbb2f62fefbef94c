"""Real engines that `preble run` starts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from preble_plugin.bench.engines import Vllm
from preble_plugin.bench.sglang_server import SglangServer
from preble_plugin.bench.tiny_model import make_tiny_model
from preble_plugin.bench.vllm_server import VllmServer
from tests.engines import SGLANG_ENVIRONMENT, TINY_MODEL, Serving, SglangServing


def _program(engine: str, model: Path, options: Sequence[str] = ()) -> Sequence[str]:
    preble = str(Path(sys.executable).parent / "preble")
    return (preble, "run", engine, *options, "--model", str(model), "--")


class RunVllm(VllmServer):
    """`preble run vllm --model MODEL -- ARGUMENTS`."""

    def _program(self) -> Sequence[str]:
        return _program("vllm", self.model)


class SeparateVllm(VllmServer):
    """Two engines and their router."""

    def _program(self) -> Sequence[str]:
        return _program("vllm", self.model, ("--separate", "--replicas", "2"))


class RunSglang(SglangServer):
    """`preble run sglang --model MODEL -- ARGUMENTS`."""

    def _program(self) -> Sequence[str]:
        return _program("sglang", self.model)


@dataclass(frozen=True)
class Run(Serving):
    """As `Serving`, but by `preble run`; with `separate` one engine a replica."""

    separate: bool = False

    def build(self, log: Path) -> VllmServer:
        made = SeparateVllm if self.separate else RunVllm
        environment = {**Vllm().environment, **dict(self.environment)}
        return made(make_tiny_model(TINY_MODEL), log, (*self.base, *self.flags), environment)


@dataclass(frozen=True)
class RunOfSglang(SglangServing):
    """As `SglangServing`, but by `preble run`."""

    def build(self, log: Path) -> SglangServer:
        environment = {**SGLANG_ENVIRONMENT, **dict(self.environment)}
        flags = (*self.base, *self.flags)
        return RunSglang(make_tiny_model(TINY_MODEL), log, flags, environment)
