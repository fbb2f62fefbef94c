"""What this adapter is tested on."""

from __future__ import annotations

from typing import Final

from preble_plugin.adapter.known import Known

SGLANG: Final = Known("sglang", "SGLang", (0, 5, 18), (0, 5, 23), "SGLANG_RUST_SERVER")
