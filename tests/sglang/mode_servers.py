"""Servers in SGLang's other modes, whose requests are placed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from preble_plugin.bench import sglang_server
from preble_plugin.bench.sglang_server import SglangServer
from preble_plugin.bench.tiny_model import make_tiny_model
from tests.engines import ROOT, SGLANG_ENVIRONMENT, TINY_MODEL, SglangServing
from tests.engines.preble import RUN_DIR, RUN_ENVIRONMENT
from tests.sglang.preble_servers import SMALL_CACHE, preble
from tests.vllm.lora_adapter import make_adapter

ADAPTER = RUN_DIR / "french"
LORA = ("--enable-lora", "--lora-paths", f"french={ADAPTER}", "--lora-backend", "torch_native")
EXAMPLE = ROOT / "examples" / "sglang" / "preble.yaml"


class _ServeCommand(SglangServer):
    """`sglang serve MODEL --config EXAMPLE`."""

    def _program(self) -> Sequence[str]:
        sglang = Path(sys.executable).parent / "sglang"
        return (str(sglang), "serve", str(self.model), "--config", str(EXAMPLE))


@dataclass(frozen=True)
class Example(SglangServing):
    """The server of the example, and what `flags` add."""

    def build(self, log: Path) -> SglangServer:
        make_adapter(ADAPTER, seed=1)
        environment = {**SGLANG_ENVIRONMENT, **dict(self.environment)}
        return _ServeCommand(make_tiny_model(TINY_MODEL), log, self.flags, environment)


@dataclass(frozen=True)
class WithAdapter(SglangServing):
    """A server whose LoRA adapter is made first."""

    def build(self, log: Path) -> SglangServer:
        make_adapter(ADAPTER, seed=1)
        return super().build(log)


TOKENIZERS = Example(
    flags=("--tokenizer-worker-num", "2", "--enable-priority-scheduling", *LORA),
    environment=RUN_ENVIRONMENT,
)
"""Two tokenizer processes, each an HTTP server of its own; and an adapter."""

EMBEDDINGS = SglangServing(
    flags=("--is-embedding", "--enable-tokenizer-batch-encode"),
    environment=(
        *RUN_ENVIRONMENT,
        ("PREBLE_DP_SCHEDULER", "preble"),
        ("PREBLE_CONFIG", '{"receipts": 500}'),
    ),
)
"""Chosen in the environment."""

DP_ATTENTION = SglangServing(
    base=tuple(sglang_server.ONE_CPU),
    flags=(
        *("--dp-scheduler", "preble", *SMALL_CACHE),
        *("--tp-size", "2", "--attn-dp-size", "2"),
    ),
    environment=RUN_ENVIRONMENT,
    qwen3=True,
)
"""Two ranks in lockstep."""

STORAGE = RUN_DIR / "hicache"
HICACHE = SglangServing(
    flags=(
        *preble().flags,
        *("--max-total-tokens", "2048", "--enable-hierarchical-cache", "--hicache-ratio", "4"),
        *("--hicache-io-backend", "direct", "--hicache-mem-layout", "layer_first"),
        *("--hicache-storage-backend", "file", "--hicache-storage-prefetch-policy"),
        *("wait_complete", "--hicache-storage-backend-extra-config", '{"prefetch_threshold": 16}'),
    ),
    environment=(
        *RUN_ENVIRONMENT,
        ("SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR", str(STORAGE)),
    ),
)
"""What leaves a rank's small cache stays on the host, and in files that both ranks read."""

DEFAULT_FORMAT = WithAdapter(
    flags=preble(
        "--kv-events-config",
        json.dumps({"publisher": "zmq", "endpoint": f"ipc://{RUN_DIR}/inproc-own"}),
        *LORA,
    ).flags,
    environment=RUN_ENVIRONMENT,
)
"""Events as the user wants them: their hashes leave the tenant out, and there is
no replay. And an adapter, whose hashes do not."""
