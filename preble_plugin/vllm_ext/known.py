"""What this adapter is tested on."""

from __future__ import annotations

from typing import Final

from preble_plugin.adapter.known import Known

VLLM: Final = Known("vllm", "vLLM", (0, 28), (0, 32), "VLLM_USE_RUST_FRONTEND")
