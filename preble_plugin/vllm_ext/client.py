"""vLLM's client of its engines, with a placement before each request.

1. `PrebleClient` is made against the class that vLLM's module has, and put in
   its place; only where the user chose so, as vLLM looks the class up by name.
2. It touches five methods and hands plain questions to a `Dispatcher`. All
   that vLLM does with its client beyond them stays as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Dispatcher(Protocol):
    """What the client below asks of us. None of these may raise, but for `place`,
    which passes a cancellation on."""

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


def replace_client(dispatcher_for: Callable[[Any], Dispatcher | None]) -> None:
    """`DPLBAsyncMPClient`, which `EngineCoreClient.make_async_mp_client` looks up
    in its module when ranks are dispatched to by load.

    Every client so made asks `dispatcher_for(client)` once, after its handshake;
    None leaves it vLLM's own.
    """
    from vllm.v1.engine import core_client

    base: Any = core_client.DPLBAsyncMPClient
    if getattr(base, "_preble_wrapped", False):
        return  # it stands there already

    class PrebleClient(base):  # type: ignore[misc]
        """`DPLBAsyncMPClient` whose requests are placed by prefix and load."""

        _preble_wrapped = True
        _preble: Dispatcher | None = None

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._preble = dispatcher_for(self)

        async def add_request_async(self, request: Any) -> None:
            """`request.request_id` enters `reqs_in_flight` before the first await."""
            if self._preble is None:
                await super().add_request_async(request)
                return
            if not await self._preble.place(self, request):
                return
            try:
                await super().add_request_async(request)
            except BaseException as error:
                sent = isinstance(error, asyncio.CancelledError)
                if not sent or request.request_id not in self.reqs_in_flight:
                    self._preble.failed(request.request_id)
                raise

        def get_core_engine_for_request(self, request: Any) -> bytes:
            """Called by `add_request_async`; obeys `request.data_parallel_rank`."""
            known = request.request_id in self.reqs_in_flight
            engine: bytes = super().get_core_engine_for_request(request)
            if self._preble is not None and not known:
                self._preble.chosen(request, int.from_bytes(engine, "little"))
            return engine

        async def abort_requests_async(self, request_ids: list[str]) -> None:
            """Of requests not in `reqs_in_flight` vLLM drops the abort."""
            if self._preble is not None:
                self._preble.aborting(request_ids)
            await super().abort_requests_async(request_ids)

        @staticmethod
        async def process_engine_outputs(self: Any, outputs: Any) -> None:
            """Found by name on the class, for each message of an engine."""
            if self._preble is not None:
                self._preble.observe(outputs)
            await base.process_engine_outputs(self, outputs)

        def shutdown(self, *args: Any, **kwargs: Any) -> None:
            """May be called more than once, from any thread, and half built."""
            if self._preble is not None:
                self._preble.close()
            super().shutdown(*args, **kwargs)

    core_client.DPLBAsyncMPClient = PrebleClient
