"""A KV connector that brings prompts from elsewhere, in its own time.

Of a request whose id begins with `remote` it cannot say at first what it has, and then
it has all but the last block, and loads that while the rank goes on.
"""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
)


class SlowConnector(KVConnectorBase_V1):  # type: ignore[misc]
    """The scheduler's half; a worker has nothing to do."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.asked: set[str] = set()
        self.loading: set[str] = set()
        """What the next steps have to say that it has come."""

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        if not request.request_id.startswith("remote"):
            return 0, False
        if request.request_id not in self.asked:
            self.asked.add(request.request_id)
            return None, False
        return (request.num_tokens - 1) // 32 * 32 - num_computed_tokens, True

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if num_external_tokens:
            self.loading.add(request.request_id)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        return KVConnectorMetadata()

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None: ...

    def wait_for_layer_load(self, layer_name: str) -> None: ...

    def save_kv_layer(
        self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any
    ) -> None: ...

    def wait_for_save(self) -> None: ...
