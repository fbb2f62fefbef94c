"""A real `vllm serve` on a machine without a GPU."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from preble_plugin.bench.server import Metrics, Server, members

__all__ = ["BLOCK_SIZE", "CPU_ENVIRONMENT", "TWO_REPLICAS", "Metrics", "VllmServer", "members"]

CPU_ENVIRONMENT: Final[Mapping[str, str]] = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
"""What vLLM needs on a small machine without a GPU and without a network."""

BLOCK_SIZE: Final = 32
"""Tokens of a block in `TWO_REPLICAS`; the smallest that vLLM's CPU build takes."""

TWO_REPLICAS: Final[Sequence[str]] = (
    *("--data-parallel-size", "2"),
    *("--block-size", str(BLOCK_SIZE)),
    *("--dtype", "float32"),
    "--enforce-eager",
    *("--max-model-len", "8192"),
    "--enable-prompt-tokens-details",
)
"""Two data-parallel ranks."""


class VllmServer(Server):
    """`vllm serve MODEL ARGUMENTS`, of the environment that runs this."""

    engine = "vLLM"

    def __init__(
        self,
        model: Path,
        log: Path,
        arguments: Sequence[str] = TWO_REPLICAS,
        environment: Mapping[str, str | None] = CPU_ENVIRONMENT,
        port: int | None = None,
    ) -> None:
        super().__init__(model, log, arguments, environment, port)

    def computed_tokens(self) -> dict[str, float]:
        """By data-parallel rank."""
        name = "vllm:prompt_tokens_by_source_total"
        return self.metrics().by("engine", name, source="local_compute")

    def _program(self) -> Sequence[str]:
        return (str(Path(sys.executable).parent / "vllm"), "serve", str(self.model))
