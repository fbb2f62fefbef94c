"""The servers of these tests.

    @serving(TWO, ONE)
    def test_x(server: VllmServer) -> None:
        before = Scheduler().settled()

A cache of 300 blocks is so small that eviction is constant.
"""

from __future__ import annotations

from typing import Any

from tests.engines import Serving
from tests.engines.client import mixed_requests
from tests.engines.preble import RUN_DIR, RUN_ENVIRONMENT

SMALL_CACHE = ("--num-gpu-blocks-override", "300")
BLOCK = 32
_ENVIRONMENT = (*RUN_ENVIRONMENT, ("VLLM_SERVER_DEV_MODE", "1"))


def _yaml() -> str:
    """The way in by `--config`, with one API server."""
    path = RUN_DIR / "serve.yaml"
    path.write_text(
        "dp-scheduler: preble\ndp-scheduler-config:\n  receipts: 5000\napi-server-count: 1\n"
    )
    return str(path)


TWO = Serving(flags=("--dp-scheduler", "preble", *SMALL_CACHE), environment=_ENVIRONMENT)
"""vLLM's default: as many API servers as ranks, and so a scheduler process."""
ONE = Serving(flags=("--config", _yaml(), *SMALL_CACHE), environment=_ENVIRONMENT)
"""One API server with the scheduler in it, chosen in a YAML file."""
LORA = Serving(
    flags=(
        *("--dp-scheduler", "auto", "--api-server-count", "1", "--enable-lora"),
        *("--lora-modules", f"french={RUN_DIR / 'french'}"),
    ),
    environment=(*_ENVIRONMENT, ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")),
)
"""Adapters that may come and go, which vLLM allows with one API server only. Not
among the others: with LoRA on a CPU, `prompt_logprobs` in a batch ends vLLM 0.32."""
OWN = Serving(
    flags=("--dp-scheduler", "default", *SMALL_CACHE),
    environment=(*_ENVIRONMENT, ("PREBLE_DP_SCHEDULER", "preble")),
)
"""vLLM's own dispatch: the flag says so against the environment."""


def vllm_requests(seed: int, count: int) -> list[dict[str, Any]]:
    """Requests of all sorts; some skip the cache."""
    return mixed_requests(seed, count, rare=[(0.03, {"prompt_logprobs": 0})])
