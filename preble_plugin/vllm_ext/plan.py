"""What an engine's client has to know to place its requests.

The plan is made where the engine's configuration is, and found again by that
configuration when the client is built with it. Nothing is put into the
configuration itself, which vLLM hashes and sends to its processes.
"""

from __future__ import annotations

import weakref
from typing import Any, Final, NamedTuple

from preble_plugin.adapter.event_endpoints import EventsConfig
from preble_plugin.service.run_dir import ServerDirectory
from preble_plugin.settings import Settings
from preble_plugin.vllm_ext.facts import Topology


class Plan(NamedTuple):
    """How the requests of one engine are to be placed."""

    settings: Settings
    topology: Topology
    events: EventsConfig
    """As the ranks publish them."""
    scheduler_address: str | None
    """Where several front ends share a scheduler process."""
    directory: ServerDirectory | None
    """For the ranks' sockets; None where the parent of this process has it, or
    there are none."""
    auto: bool = False
    """What cannot work is left to vLLM, with a warning."""

    def close(self) -> None:
        """Remove what was made for the engine; idempotent."""
        if self.directory is not None:
            self.directory.remove()


_plans: Final[dict[int, Plan]] = {}


def keep(config: Any, plan: Plan) -> None:
    """Keep the plan as long as `config` lives."""
    _plans[id(config)] = plan
    weakref.finalize(config, _plans.pop, id(config), None)


def plan_of(config: Any) -> Plan | None:
    """The plan for an engine's configuration, or None."""
    return _plans.get(id(config))
