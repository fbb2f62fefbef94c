"""Prepares an engine's finished configuration for placement.

1. The contract with vLLM is verified and the configuration is checked: what cannot work
   is refused, before any model is loaded.
2. Where several API servers will share it, their parent starts the scheduler
   process and leaves its address in the environment.
3. The ranks are told to publish their cache events.
4. vLLM's client is replaced by ours, which finds its plan by its configuration.
5. The ranks are given a scheduler class that takes up what waits in our order. Where
   there is one rank, an offline engine or the Rust front end, nothing is placed, and this
   is all.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from preble_plugin.adapter.contract import verify
from preble_plugin.adapter.event_endpoints import events_directory, local_endpoints
from preble_plugin.adapter.local_queue import local_queue_wanted
from preble_plugin.adapter.refusals import CannotWork
from preble_plugin.service.checks import check_settings
from preble_plugin.service.environment import SCHEDULER_ADDRESS
from preble_plugin.service.run_dir import RunDirError, ServerDirectory
from preble_plugin.service.supervisor import SchedulerProcess
from preble_plugin.settings import Settings
from preble_plugin.vllm_ext import hooks
from preble_plugin.vllm_ext.contract import CONTRACT
from preble_plugin.vllm_ext.events import NETWORK
from preble_plugin.vllm_ext.facts import Topology
from preble_plugin.vllm_ext.known import VLLM
from preble_plugin.vllm_ext.placement import check_client, dispatch_for
from preble_plugin.vllm_ext.plan import Plan, keep
from preble_plugin.vllm_ext.refusals import RUST_DISPATCHES, check_engine, check_events

_kept: Final[list[SchedulerProcess]] = []
"""What lives as long as this process."""


def prepare(
    config: Any, settings: Settings, auto: bool, headless: bool, offline: bool
) -> list[str]:
    """Check and prepare `config` in place; what to warn of. Raises `CannotWork`,
    `SettingsError`; nothing is changed then."""
    warnings = verify(VLLM, hooks.version(), CONTRACT)
    topology = hooks.topology(config)
    queued = local_queue_wanted(settings, prefix_caching=topology.prefix_caching)
    if offline:
        if not queued:
            return [
                "LLM(...) does not dispatch among data-parallel ranks and the local queue is "
                "off: dp_scheduler has no effect."
            ]
        return [*warnings, *_queue(config)]
    check_settings(settings)
    rust = hooks.rust_frontend()
    if topology.ranks > 1 and rust and queued and (auto or settings.local_queue == "on"):
        return [*warnings, RUST_DISPATCHES, *_queue(config)]
    check_engine(topology, rust, queued)
    if topology.ranks > 1:
        warnings += _place(config, settings, topology, headless, auto)
    return [*warnings, *_queue(config)] if queued else warnings


def _queue(config: Any) -> list[str]:
    """Give the ranks our local queue; what to warn of."""
    given = hooks.scheduler_class(config)
    if given is not None:
        return [f"the local queue is off: the scheduler class {given} is left in its place."]
    module = f"{__package__}.schedulers"
    hooks.set_scheduler_class(config, f"{module}.PrebleScheduler", f"{module}.PrebleAsyncScheduler")
    return []


def _place(
    config: Any, settings: Settings, topology: Topology, headless: bool, auto: bool
) -> list[str]:
    """Prepare `config` for placement; what to warn of."""
    warnings = []
    check_events(hooks.events_config(config))
    address, directory, keeper = _meeting_place(topology, settings, headless)
    if hooks.events_config(config) is None:
        if directory is not None:
            endpoints = local_endpoints(directory)
        else:
            endpoints = NETWORK
            warnings.append(
                "KV events, which carry prompts, cross the network unauthenticated: fence their "
                "ports off as docs/security.md says."
            )
        hooks.publish_events(config, *endpoints)
    published = hooks.events_config(config)
    if published is not None and topology.api_server >= 0 and not headless:
        keep(config, Plan(settings, topology, published, address, keeper, auto))
        hooks.replace_client(dispatch_for, check_client)
    return warnings


def _meeting_place(
    topology: Topology, settings: Settings, headless: bool
) -> tuple[str | None, Path | None, ServerDirectory | None]:
    """The address of the scheduler process where one is shared, the directory
    for the ranks' sockets where they are all on this node, and what keeps it."""
    shared = topology.api_servers > 1 and not headless
    try:
        if not shared:
            if headless or not topology.one_node:
                return None, None, None
            own = events_directory()
            return None, own.path, own
        if topology.api_server < 0:
            os.environ[SCHEDULER_ADDRESS] = _start_scheduler(settings)
    except RunDirError as error:
        raise CannotWork(f"--dp-scheduler preble: {error}.") from error
    address = os.environ.get(SCHEDULER_ADDRESS)
    if not address:
        raise CannotWork(
            "--dp-scheduler preble found no scheduler process for this API server: start the "
            "API servers by `vllm serve`, or use --api-server-count 1."
        )
    directory = Path(address.removeprefix("ipc://")).parent if topology.one_node else None
    return address, directory, None


def _start_scheduler(settings: Settings) -> str:
    scheduler = SchedulerProcess()
    address = scheduler.start(settings)
    _kept.append(scheduler)
    return address
