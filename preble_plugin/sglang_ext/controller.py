"""The data-parallel controller with our dispatch and our loop.

1. Where its loop is served its ranks become replicas, and its `dispatching` ours. What
   keeps us from that ends the server, or under `auto` is left to SGLang with a warning.
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
from preble_plugin.adapter.refusals import refuse
from preble_plugin.service.interface import EventSource, ReplicaSpec
from preble_plugin.service.local import LocalFrontend
from preble_plugin.service.metrics import PlacementMetrics
from preble_plugin.settings import Settings
from preble_plugin.sglang_ext import hooks, launch_env
from preble_plugin.sglang_ext.dispatch import Dispatch
from preble_plugin.sglang_ext.facts import ControllerFacts
from preble_plugin.sglang_ext.known import SGLANG
from preble_plugin.sglang_ext.launch_env import Launch
from preble_plugin.sglang_ext.loads import Loads
from preble_plugin.sglang_ext.outcomes import OutcomeListener
from preble_plugin.sglang_ext.page_hash import HashForm
from preble_plugin.sglang_ext.tenants import Tenants

_BATCH: Final = 64
"""Messages of the tokenizer taken at a time, before the loop's other work."""
_WATCHDOG_SECONDS: Final = 1.0
_REPLACED: Final = (
    "--dp-scheduler preble places requests in DataParallelController.dispatching, and %s was put "
    "in its place: leave out the plugin that does so"
)


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
            *(engine, self._frontend, self._metrics, tenants, self._restate),
            shadow=settings.shadow,
            computes=not facts.decodes,
        )
        self.serving = False
        """Whether requests are dispatched by us."""
        self._replaced = False
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
            hooks.take_dispatching(self._engine, dispatch)
            self.serving = True
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
            if not self._replaced and not hooks.has_dispatching(self._engine, self._dispatch):
                self._replaced = True
                hooks.logger().error(_REPLACED, hooks.foreign_dispatching(self._engine))
            self._read()  # ranks are looked at, too
            loop.call_later(_WATCHDOG_SECONDS, self._watch, loop)


def built(engine: Any) -> None:
    """A controller's ranks are up. Raises `CannotWork`, but under `auto`, where its
    `dispatching` is not SGLang's own, or once a request comes and `run` was not called."""
    launch = _launch(engine)
    if launch is None:
        return
    reason = (
        "--dp-scheduler preble serves in DataParallelController.event_loop, and another loop "
        "runs in its place: leave out the plugin that does so"
    )
    hooks.hold_dispatching(engine, lambda: _refuse(reason, launch))


def run(engine: Any) -> None:
    """Run a controller; returns where SGLang's own loop has to go on. Raises what
    SGLang's dispatcher raises, and `CannotWork`."""
    launch = _launch(engine)
    if launch is None:
        return
    controller: Controller | None = None
    try:
        controller = Controller(engine, launch.settings, str(launch.outcomes))
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(controller.serve())
    except _EngineError as failed:
        raise failed.error from None
    except Exception as fault:
        if controller is None or not controller.serving:
            hooks.give_dispatching_back(engine)
            _refuse(f"--dp-scheduler preble could not start: {fault!r}: see docs/sglang.md", launch)
            return
        hooks.logger().exception("preble's loop failed; SGLang's own loop and dispatch go on")
    hooks.give_dispatching_back(engine, "round_robin" if launch.settings.shadow else hooks.METHOD)


def _launch(engine: Any) -> Launch | None:
    """How a controller was launched, where its requests are to be placed and can be. Raises
    `CannotWork`."""
    launch = launch_env.read(os.environ)
    if launch is None or launch.outcomes is None:
        return None
    if (foreign := hooks.foreign_dispatching(engine)) is None:
        return launch
    _refuse(_REPLACED % foreign, launch)
    return None


def _refuse(reason: str, launch: Launch) -> None:
    refuse(reason, auto=launch.auto, log=hooks.logger(), title=SGLANG.title)


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
        lookahead_tokens=int(facts.bigram),
    )
