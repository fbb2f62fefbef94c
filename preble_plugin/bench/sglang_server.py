"""A real `sglang.launch_server` on a machine without a GPU.

Two packages that SGLang imports have no wheel for such a machine. A directory
with stand-ins for them goes first on the PYTHONPATH of the server's processes:
`cpu_environment`. Where SGLang is installed whole, none is needed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from preble_plugin.bench.server import Server

CPU_ENVIRONMENT: Final[Mapping[str, str]] = {
    "SGLANG_USE_CPU_ENGINE": "1",
    "SGLANG_CPU_OMP_THREADS_BIND": "0|1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""What SGLang needs there for two ranks, and without a network. SGLang wants a
group of cores for each rank; only its compiled kernels bind to them."""

PAGE_SIZE: Final = 16
"""Tokens of a page in `TWO_REPLICAS`."""

ONE_CPU: Final[Sequence[str]] = (
    *("--device", "cpu"),
    *("--attention-backend", "torch_native"),
    *("--dtype", "float32"),
    "--disable-overlap-schedule",
    *("--mem-fraction-static", "0.1"),
    *("--max-total-tokens", "8192"),
    *("--page-size", str(PAGE_SIZE)),
    "--sleep-on-idle",
    "--enable-cache-report",
    "--enable-metrics",
)
"""How a rank runs: native torch at full precision, as half is slow on a CPU; a cache of 8,192
tokens; idle at rest."""

TWO_REPLICAS: Final[Sequence[str]] = (*ONE_CPU, "--dp-size", "2")
"""Two data-parallel ranks; a flag that is given again later counts."""


def cpu_environment(standins: Path | None = None) -> Mapping[str, str]:
    """`CPU_ENVIRONMENT`, with the directory `standins` before what PYTHONPATH says.

    Raises `FileNotFoundError` where there is no `sgl_kernel` in it.
    """
    if standins is None:
        return CPU_ENVIRONMENT
    if not (standins / "sgl_kernel").is_dir():
        raise FileNotFoundError(f"no stand-in for sgl_kernel in {standins}")
    paths = [str(standins.resolve()), os.environ.get("PYTHONPATH", "")]
    return {**CPU_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


class SglangServer(Server):
    """`python -m sglang.launch_server --model-path MODEL ARGUMENTS`."""

    engine = "SGLang"

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
        """By data-parallel rank; needs `--enable-metrics`."""
        name = "sglang:realtime_tokens_total"
        return self.metrics().by("dp_rank", name, mode="prefill_compute")

    def _program(self) -> Sequence[str]:
        return (sys.executable, "-m", "sglang.launch_server", "--model-path", str(self.model))
