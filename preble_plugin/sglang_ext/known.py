"""What this adapter is tested on."""

from __future__ import annotations

from typing import Final

from preble_plugin.adapter.known import Known

SGLANG: Final = Known(
    package="sglang",
    title="SGLang",
    oldest=(0, 5, 22),
    newest=(0, 5, 23),
    rust_switch="SGLANG_RUST_SERVER",
    contract="preble_plugin.sglang_ext.contract",
)
