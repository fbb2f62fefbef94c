"""What this adapter is tested on."""

from __future__ import annotations

from typing import Final

from preble_plugin.adapter.known import Known

VLLM: Final = Known(
    package="vllm",
    title="vLLM",
    oldest=(0, 31),
    newest=(0, 33),
    rust_switch="VLLM_USE_RUST_FRONTEND",
    contract="preble_plugin.vllm_ext.contract",
)
