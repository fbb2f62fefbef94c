"""The data-parallel controller with our dispatch and our loop.

1. Once its ranks are up they become replicas, and its `dispatching` ours.
2. SGLang's loop spins on a core; ours waits for whichever comes first: a message
   of the tokenizer, cache events, outcomes, or a timer. Each message is handled
   by SGLang's own dispatcher.
3. Where our loop fails, SGLang's own goes on, with SGLang's own dispatch. What
   SGLang's dispatcher raises ends the controller, as it does without us.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, Final

import zmq

from preble_plugin.adapter.event_endpoints import reachable
from preble_plugin.adapter.gauges import Gauges
from preble_plugin.service.interface import EventSource, ReplicaSpec
from preble_plugin.service.local import LocalFrontend
from preble_plugin.service.metrics import PlacementMetrics
from preble_plugin.settings import Settings
from preble_plugin.sglang_ext import hooks, word
from preble_plugin.sglang_ext.dispatch import Dispatch
from preble_plugin.sglang_ext.facts import ControllerFacts
from preble_plugin.sglang_ext.loads import Loads
from preble_plugin.sglang_ext.outcomes import OutcomeListener
from preble_plugin.sglang_ext.page_hash import HashForm
from preble_plugin.sglang_ext.tenants import Tenants

_BATCH: Final = 64
"""Messages of the tokenizer taken at a time, before the loop's other work."""
_WATCHDOG_SECONDS: Final = 1.0
_taken: Final[dict[int, Controller]] = {}


class _EngineError(Exception):
    """What SGLang's own dispatcher raised."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class Controller:
    """One controller of SGLang, taken over."""

    def __init__(self, engine: Any, settings: Settings, outcomes: str) -> None:
        """Raises for a fault of ours; nothing is changed then."""
        self._engine = engine
        self._outcomes = outcomes
        facts = hooks.controller_facts(engine)
        form = HashForm.NAMED_LORA if facts.named_lora else HashForm.DEFAULT
        form = HashForm.DYNAMO if facts.dynamo_format else form
        tenants = Tenants(facts.page_size, form, bigram=facts.bigram)
        self._frontend = LocalFrontend(settings, translate=tenants.translate)
        self._metrics = PlacementMetrics()
        self._restate()
        self._dispatch = Dispatch(
            engine, self._frontend, self._metrics, tenants, self._restate, shadow=settings.shadow
        )
        self._own = hooks.take_dispatching(engine, self._dispatch)
        hooks.logger().info(
            "%s by preble (policy %s) on ranks %s, pages of %d tokens",
            "shadow mode: SGLang dispatches, decisions are recorded"
            if settings.shadow
            else "requests are placed",
            settings.policy,
            list(facts.ranks),
            facts.page_size,
        )

    def _restate(self) -> None:
        facts = hooks.controller_facts(self._engine)
        self._frontend.set_replicas([_replica(facts, rank) for rank in facts.ranks])

    def give_back(self) -> None:
        """SGLang's own dispatch goes on."""
        hooks.give_dispatching_back(self._engine, self._own)

    async def serve(self) -> None:
        """Handle what comes, until SGLang's dispatcher raises: `_EngineError`."""
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = loop.create_future()
        dispatch = self._dispatch
        gauges = Gauges(self._frontend, self._metrics, dispatch.faults)
        loads = Loads(self._engine, self._frontend, dispatch.faults, dispatch.forget)
        listener = OutcomeListener(self._outcomes, dispatch.observe)
        descriptor = int(hooks.input_socket(self._engine).getsockopt(zmq.FD))
        try:
            await self._frontend.start()
            gauges.start()
            loads.start()
            loop.add_reader(descriptor, self._read)
            self._watch(loop)
            await self._ended
        finally:
            loop.remove_reader(descriptor)
            loads.stop()
            gauges.stop()
            listener.close()
            await self._frontend.close()

    def _read(self) -> None:
        """Handle what the tokenizer sent. ZMQ's descriptor is edge-triggered: all is
        read that is there, the rest after a batch in the loop's next turn."""
        try:
            self._dispatch.look_at_ranks()
            for _ in range(_BATCH):
                try:
                    message = hooks.receive(self._engine)
                except zmq.ZMQError:
                    return
                hooks.handle(self._engine, message)
        except BaseException as error:
            if not self._ended.done():
                self._ended.set_exception(_EngineError(error))
            return
        asyncio.get_running_loop().call_soon(self._read)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._ended.done():
            hooks.feed_watchdog(self._engine)
            self._read()  # ranks are looked at, too
            loop.call_later(_WATCHDOG_SECONDS, self._watch, loop)


def take_over(engine: Any) -> None:
    """Take a controller over whose ranks are up, where the launching process left
    word to. Never raises."""
    try:
        left = word.left(os.environ)
        if left is not None:
            _taken[id(engine)] = Controller(engine, *left)
    except Exception:
        hooks.logger().exception("preble failed to start; SGLang's own dispatch is used")


def run(engine: Any) -> None:
    """Run a controller that was taken over; returns where SGLang's own loop has to
    go on. Raises what SGLang's dispatcher raises."""
    taken = _taken.get(id(engine))
    if taken is None:
        return
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(taken.serve())
    except _EngineError as failed:
        raise failed.error from None
    except Exception:
        hooks.logger().exception("preble's loop failed; SGLang's own loop and dispatch go on")
    taken.give_back()


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _replica(facts: ControllerFacts, rank: int) -> ReplicaSpec:
    given = facts.events
    source: EventSource | None = None
    if given is not None:
        endpoint = reachable(hooks.rank_endpoint(given.endpoint, rank), local=True)
        replay = given.replay_endpoint
        if endpoint is not None:
            source = EventSource(
                endpoint,
                reachable(hooks.rank_endpoint(replay, rank), local=True) if replay else None,
                given.topic,
            )
    return ReplicaSpec(
        rank,
        facts.page_size,
        facts.capacity_tokens // facts.page_size,
        source,
        max_running=facts.max_running,
    )
