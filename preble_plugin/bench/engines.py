"""What the demo and the engine tests have to know of each engine.

A *side* is one way to dispatch, by its short name: `default` is the engine's
own, a name in `sides` may be another of the engine's own, and any other name
goes to `--dp-scheduler`. The sides of an engine differ in that alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from preble_plugin.bench import sglang_server, vllm_server
from preble_plugin.bench.plan import Plan
from preble_plugin.bench.result import Side
from preble_plugin.bench.server import Server
from preble_plugin.bench.sglang_server import SglangServer
from preble_plugin.bench.vllm_server import VllmServer

UNTOLD: Final[Mapping[str, str | None]] = {"PREBLE_DP_SCHEDULER": None, "PREBLE_CONFIG": None}
"""Nothing that the caller's shell says of placement reaches a server."""

_PREBLE: Final = Side("--dp-scheduler preble", "preble")


class Engine(ABC):
    """An engine that the demo can run."""

    name: ClassVar[str]
    distribution: ClassVar[str]
    """What its version is asked of."""
    sides: ClassVar[Mapping[str, Side]]
    """The sides of a comparison, in order; the first is the engine's own dispatch."""
    start_seconds: ClassVar[float]
    """What a start takes on two cores."""
    serve: ClassVar[str]
    """The make target that leaves a server running on port 8000."""

    environment: Mapping[str, str | None]
    """Of its servers, over that of the caller."""

    @abstractmethod
    def server(self, model: Path, log: Path, side: str, plan: Plan) -> Server:
        """A server of one side, not yet started."""

    def side(self, name: str) -> Side:
        """How a side is called where people read it."""
        return self.sides.get(name, Side(f"--dp-scheduler {name}", name))


class Vllm(Engine):
    """vLLM, whose front ends are API servers."""

    name = "vLLM"
    distribution = "vllm"
    sides: ClassVar = {"default": Side("vLLM's own dispatch", "own"), "preble": _PREBLE}
    start_seconds = 35.0
    serve = "serve"

    def __init__(self) -> None:
        self.environment = {**vllm_server.CPU_ENVIRONMENT, **UNTOLD}

    def server(self, model: Path, log: Path, side: str, plan: Plan) -> VllmServer:
        """One API server a rank, unless the plan says otherwise."""
        return VllmServer(model, log, self.arguments(side, plan), self.environment)

    def arguments(self, side: str, plan: Plan) -> list[str]:
        """What follows `vllm serve MODEL`."""
        blocks = plan.cache_tokens // vllm_server.BLOCK_SIZE
        chosen = [*vllm_server.TWO_REPLICAS, "--num-gpu-blocks-override", str(blocks)]
        if plan.front_ends is not None:
            chosen += ["--api-server-count", str(plan.front_ends)]
        return [*chosen, *([] if side == "default" else _scheduler(side, plan))]


class Sglang(Engine):
    """SGLang, whose front ends are tokenizer workers.

    `standins` is the directory that stands in for what SGLang imports and a
    machine without a GPU has no wheel of; None where SGLang is installed whole.
    """

    name = "SGLang"
    distribution = "sglang"
    sides: ClassVar = {
        "default": Side("SGLang's round robin", "round robin"),
        "total_tokens": Side("SGLang's total_tokens", "total tokens"),
        "preble": _PREBLE,
    }
    start_seconds = 30.0
    serve = "serve-sglang"

    def __init__(self, standins: Path | None = None) -> None:
        self.environment = {**sglang_server.cpu_environment(standins), **UNTOLD}

    def server(self, model: Path, log: Path, side: str, plan: Plan) -> SglangServer:
        """One tokenizer worker, unless the plan says otherwise."""
        return SglangServer(model, log, self.arguments(side, plan), self.environment)

    def arguments(self, side: str, plan: Plan) -> list[str]:
        """What follows `sglang.launch_server --model-path MODEL`."""
        chosen = [*sglang_server.TWO_REPLICAS, "--max-total-tokens", str(plan.cache_tokens)]
        if plan.front_ends is not None:
            chosen += ["--tokenizer-worker-num", str(plan.front_ends)]
        if side == "total_tokens":
            return [*chosen, "--load-balance-method", side]
        return [*chosen, *([] if side == "default" else _scheduler(side, plan))]


def _scheduler(name: str, plan: Plan) -> Sequence[str]:
    settings = [] if plan.settings is None else ["--dp-scheduler-config", plan.settings]
    return ["--dp-scheduler", name, *settings]
