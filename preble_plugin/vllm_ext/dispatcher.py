"""What vLLM's client asks of us, before and after each request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Dispatcher(Protocol):
    """What the client asks that `hooks.replace_client` makes. None of these may
    raise, but for `place`, which passes a cancellation on."""

    async def place(self, client: Any, request: Any) -> bool:
        """Set `request.data_parallel_rank`, or leave it; False: do not send it."""

    def chosen(self, request: Any, rank: int) -> None:
        """`request` goes to `rank`, whoever chose it."""

    def failed(self, request_id: str) -> None:
        """`request_id` was not sent after all."""

    def aborting(self, request_ids: Sequence[str]) -> None:
        """These are being aborted."""

    def observe(self, outputs: Any) -> None:
        """One engine message arrived."""

    def close(self) -> None:
        """The client shuts down."""
