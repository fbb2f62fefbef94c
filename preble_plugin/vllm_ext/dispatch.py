"""One client's requests: placed, sent, observed, released.

1. A request is `placing` while its placement is awaited. An abort that comes
   then is honoured: the request is never sent, and its placement released.
   vLLM itself would drop that abort, since it does not know the request yet.
2. Once its rank is chosen, by the placement or else by vLLM, a request is in
   flight until the engine says that it finished, or it is aborted.
3. Parts of a streaming input share a request id: they go, in order, to the rank
   where the first went, which vLLM sees to.
4. On a decode server the prompts come from prefill servers: such a request is placed by
   load, is no prefill work, and its hit, which saves a transfer, is not predicted.
5. In shadow mode vLLM chooses the rank of all requests whose rank the user left open,
   and the front end is told what it chose, to say what would have been chosen.
6. What goes wrong here is counted by cause and logged once; vLLM then places
   the request by load, and that is accounted for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from preble_plugin.adapter.faults import Faults
from preble_plugin.adapter.gauges import Gauges
from preble_plugin.adapter.prompts import prompt_keys
from preble_plugin.core.events import namespace
from preble_plugin.core.request import Finished, FirstToken, Outcome, Request
from preble_plugin.service.interface import Frontend, Unplaced
from preble_plugin.service.metrics import PlacementMetrics
from preble_plugin.vllm_ext import hooks
from preble_plugin.vllm_ext.facts import RequestFacts
from preble_plugin.vllm_ext.stages import Asked, InFlight, Placing


class Dispatch:
    """The `Dispatcher` of one client; used from its event loop.

    `restate` is called with the client when its ranks are not `ranks` any more,
    to tell `frontend` of them. A request waits `patience_seconds` for a front
    end that is still starting. `on_close` is called at the end, once or more.
    With `shadow` vLLM chooses.
    """

    def __init__(
        self,
        frontend: Frontend,
        metrics: PlacementMetrics,
        ranks: tuple[int, ...],
        restate: Callable[[Any], None],
        *,
        patience_seconds: float,
        on_close: Callable[[], None],
        shadow: bool = False,
    ) -> None:
        self._faults = Faults(hooks.logger(), "vLLM")
        self.faults = self._faults.counts
        """Faults of our own, by where they happened."""
        self._gauges = Gauges(frontend, metrics, self._faults)
        self._frontend = frontend
        self._metrics = metrics
        self._ranks = ranks
        self._restate = restate
        self._on_close = on_close
        self._patience_seconds = patience_seconds
        self._shadow = shadow
        self._placing: dict[str, Placing] = {}
        self._asked: dict[str, Asked] = {}
        self._in_flight: dict[str, InFlight] = {}
        self._starting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    # -- the way in ----------------------------------------------------------

    def start_if_running(self) -> None:
        """Start the front end where an event loop runs; idempotent. Elsewhere the
        first request starts it."""
        if self._starting is None:
            with contextlib.suppress(RuntimeError):
                loop = asyncio.get_running_loop()
                self._starting = loop.create_task(self._start(), name="preble")

    async def _start(self) -> None:
        try:
            await self._frontend.start()
            self._gauges.start()
        except Exception:
            self._faults.note("start")

    async def place(self, client: Any, request: Any) -> bool:
        """Ask where `request` goes and set its `data_parallel_rank`.

        False: it was aborted meanwhile and must not be sent.
        """
        request_id: str = request.request_id
        while (earlier := self._placing.get(request_id)) is not None:
            await earlier.done.wait()
            if earlier.aborted:
                return False
        if hooks.in_flight(client, request_id):
            return True
        self._placing[request_id] = placing = Placing()
        try:
            await self._ask(client, request)
        except asyncio.CancelledError:
            self.failed(request_id)
            raise
        except Exception:
            self._faults.note("place")
            self._metrics.fallback(Unplaced("error"))
        finally:
            del self._placing[request_id]
            placing.done.set()
        if placing.aborted:
            self.failed(request_id)
        return not placing.aborted

    async def _ask(self, client: Any, request: Any) -> None:
        self.start_if_running()
        if self._starting is not None and not self._starting.done():
            await asyncio.wait({self._starting}, timeout=self._patience_seconds)
        if hooks.client_size(client) != len(self._ranks):
            self._ranks = hooks.client_ranks(client)
            self._restate(client)
        facts = hooks.request_facts(request)
        asked = self._core_request(facts)
        self._asked[facts.request_id] = Asked(asked, facts)
        if hooks.placed_by_vllm(client, request):
            return
        if self._shadow and facts.fixed_index is None:
            self._asked[facts.request_id] = Asked(asked, facts, shadow=True)
            return
        began = time.perf_counter()
        answer = await self._frontend.place(asked)
        if isinstance(answer, Unplaced):
            self._metrics.fallback(answer)
            return
        self._metrics.placed(answer, asked.prompt_tokens, time.perf_counter() - began)
        rank = int(answer.replica)
        request.data_parallel_rank = self._ranks.index(rank)
        self._asked[facts.request_id] = Asked(asked, facts, rank)

    def _core_request(self, facts: RequestFacts) -> Request:
        space = namespace(facts.lora_name, facts.lora_id, facts.salt)
        hasher, metrics = self._frontend.hasher, self._metrics
        keys = prompt_keys(hasher, facts.tokens, space, facts.features, metrics)
        fixed = facts.fixed_index
        return Request(
            request_id=facts.request_id,
            keys=keys,
            prompt_tokens=facts.prompt_tokens,
            external_id=facts.external_id,
            max_output_tokens=facts.max_output_tokens,
            priority=facts.priority,
            session_id=facts.session_id,
            fixed_replica=self._ranks[fixed] if fixed is not None else None,
            reads_cache=facts.reads_cache and facts.computes,
            computes=facts.computes,
        )

    def chosen(self, request: Any, rank: int) -> None:
        """`request` goes to `rank`; account for it where that is not as placed."""
        try:
            known = self._asked.pop(request.request_id, None)
            if known is None:
                return  # it failed before, and was counted then
            self._in_flight[request.request_id] = InFlight(rank, known.facts)
            if known.placed != rank:
                self._frontend.dispatched(known.request, rank, known.shadow)
        except Exception:
            self._faults.note("chosen")

    # -- the way out ---------------------------------------------------------

    def observe(self, outputs: Any) -> None:
        """Tell what one engine message says of our requests. O(its requests)."""
        try:
            outcomes: list[Outcome] = []
            in_flight = self._in_flight
            for output in hooks.output_facts(outputs):
                known = in_flight.get(output.request_id)
                if known is None:
                    continue
                known.output_tokens += output.new_tokens
                if output.prefilled:
                    cached = output.cached_tokens if known.computes else None
                    outcomes.append(FirstToken(output.request_id, cached))
                if output.finished and not known.resumable:
                    del in_flight[output.request_id]
                    outcomes.append(
                        Finished(output.request_id, known.output_tokens, output.aborted)
                    )
            rank, ended = hooks.message_facts(outputs)
            for request_id in ended:
                if (known := in_flight.pop(request_id, None)) is not None:
                    outcomes.append(known.end(request_id))
            if outcomes:
                self._frontend.observe(rank, outcomes, time.monotonic())
                self._metrics.observed(rank, outcomes)
        except Exception:
            self._faults.note("observe")

    def aborting(self, request_ids: Sequence[str]) -> None:
        """Release what is being aborted, in flight or still being placed."""
        try:
            for request_id in request_ids:
                if (placing := self._placing.get(request_id)) is not None:
                    placing.aborted = True
                self._release(request_id)
        except Exception:
            self._faults.note("aborting")

    def failed(self, request_id: str) -> None:
        """Release a request that was not sent after all."""
        try:
            asked = self._asked.pop(request_id, None)
            if asked is not None and asked.placed is not None:
                self._tell(asked.placed, Finished(request_id, 0, aborted=True))
            self._release(request_id)
        except Exception:
            self._faults.note("failed")

    def _release(self, request_id: str) -> None:
        if (known := self._in_flight.pop(request_id, None)) is not None:
            self._tell(known.rank, known.end(request_id))

    def _tell(self, rank: int, outcome: Outcome) -> None:
        self._frontend.observe(rank, [outcome], time.monotonic())

    # -- the end -------------------------------------------------------------

    def close(self) -> None:
        """Close the front end from any thread; idempotent."""
        starting, self._starting = self._starting, None
        try:
            if starting is not None and not (loop := starting.get_loop()).is_closed():
                loop.call_soon_threadsafe(self._close_in, loop)
            self._on_close()
        except Exception:
            self._faults.note("close")

    def _close_in(self, loop: asyncio.AbstractEventLoop) -> None:
        self._gauges.stop()
        self._closing = loop.create_task(self._frontend.close())
