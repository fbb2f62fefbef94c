"""Puts one client's placement together, once its engines have answered.

1. The client's plan is found by its configuration; without one it stays vLLM's.
2. Its ranks become replicas: block size and capacity as the engines resolved
   them, and where each publishes its cache events.
3. One front end of its own, or one of several that share the scheduler process.
"""

from __future__ import annotations

import os
from typing import Any

from preble_plugin.adapter.refusals import refuse
from preble_plugin.service.interface import ReplicaSpec
from preble_plugin.service.local import LocalFrontend
from preble_plugin.service.metrics import PlacementMetrics
from preble_plugin.service.remote import RemoteFrontend
from preble_plugin.vllm_ext import hooks
from preble_plugin.vllm_ext.dispatch import Dispatch
from preble_plugin.vllm_ext.events import event_sources
from preble_plugin.vllm_ext.known import VLLM
from preble_plugin.vllm_ext.plan import Plan, plan_of


def dispatch_for(client: Any) -> Dispatch | None:
    """The dispatch of a client that has just been built; None where its engine was not
    configured for placement, or under `auto` by a fault of ours, which is logged.

    Raises `CannotWork` for that fault otherwise.
    """
    plan = plan_of(client.vllm_config)
    if plan is None:
        return None
    try:
        return _dispatch(client, plan)
    except Exception as fault:
        _refuse(f"--dp-scheduler preble could not start: {fault!r}: see docs/vllm.md", plan)
        return None


def check_client(client: Any, ours: bool) -> None:
    """Raise `CannotWork`, or warn under `auto`, where the client of an engine configured
    for placement is not ours."""
    plan = plan_of(client.vllm_config)
    if plan is not None and not ours:
        kind = type(client)
        _refuse(
            f"--dp-scheduler preble places requests in DPLBAsyncMPClient, and {kind.__module__}."
            f"{kind.__qualname__} was put in its place: leave out the plugin that does so",
            plan,
        )


def _refuse(reason: str, plan: Plan) -> None:
    plan.close()
    if plan.auto and plan.topology.api_server > 0:
        return  # the first of several API servers warns
    refuse(reason, auto=plan.auto, log=hooks.logger(), title=VLLM.title)


def _dispatch(client: Any, plan: Plan) -> Dispatch:
    frontend = (
        RemoteFrontend(plan.scheduler_address, plan.settings)
        if plan.scheduler_address is not None
        else LocalFrontend(plan.settings)
    )
    facts = hooks.engine_facts(client)
    silent: set[int] = set()

    def restate(client: Any) -> None:
        # What each rank holds stays as it was told first: the sum that vLLM
        # keeps does not follow ranks that leave.
        now = hooks.engine_facts(client)._replace(capacity_blocks=facts.capacity_blocks)
        sources = event_sources(now, plan.events, plan.topology, hooks.rank_endpoint)
        frontend.set_replicas(
            [
                ReplicaSpec(
                    rank,
                    now.block_size,
                    now.capacity_blocks,
                    sources[rank],
                    now.drop_blocks,
                    now.max_running,
                    now.lookahead_tokens,
                )
                for rank in now.ranks
            ]
        )
        unheard = {rank for rank in now.ranks if sources[rank] is None} - silent
        if unheard:
            silent.update(unheard)
            hooks.logger().warning(
                "no KV events can be read from ranks %s: what they cache is guessed from what is "
                "placed there.",
                sorted(unheard),
            )

    restate(client)
    dispatch = Dispatch(
        frontend,
        PlacementMetrics(),
        facts.ranks,
        restate,
        patience_seconds=plan.settings.placement_deadline_seconds,
        on_close=plan.close,
        shadow=plan.settings.shadow,
    )
    dispatch.start_if_running()
    hooks.logger().info(
        "%s by preble (policy %s) on ranks %s, blocks of %d tokens, %s",
        "shadow mode: vLLM dispatches, decisions are recorded"
        if plan.settings.shadow
        else "requests are placed",
        plan.settings.policy,
        list(facts.ranks),
        facts.block_size,
        f"scheduler process {os.path.basename(os.path.dirname(plan.scheduler_address))}"
        if plan.scheduler_address
        else "scheduler in this process",
    )
    return dispatch
