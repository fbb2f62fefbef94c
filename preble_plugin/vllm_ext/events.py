"""Where each rank of vLLM publishes what its cache holds.

1. On one node they publish on unix sockets (`adapter/event_endpoints`).
2. Across nodes they publish on TCP, on ports of the system's choice, which vLLM tells to
   its clients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from preble_plugin.adapter.event_endpoints import Endpoints, EventsConfig, reachable
from preble_plugin.service.interface import EventSource
from preble_plugin.vllm_ext.facts import EngineFacts, Topology

NETWORK: Final = Endpoints("tcp://*:0", "tcp://*:0")
"""TCP ports on each rank's node."""


def event_sources(
    facts: EngineFacts,
    given: EventsConfig,
    topology: Topology,
    rank_endpoint: Callable[[str, int], str],
) -> dict[int, EventSource | None]:
    """For each rank where to read its events; None where that is not known.

    `given` is the engine's configuration; `rank_endpoint` makes a rank's own
    endpoint of a common one.
    """
    found: dict[int, EventSource | None] = {}
    for position, rank in enumerate(facts.ranks):
        local = topology.one_node or position < topology.local_ranks
        told = facts.sources.get(rank)
        if told is not None:
            endpoint, replay = told.endpoint, told.replay_endpoint
        else:
            endpoint = rank_endpoint(given.endpoint, rank)
            replay = rank_endpoint(given.replay_endpoint, rank) if given.replay_endpoint else None
        address = reachable(endpoint, local)
        found[rank] = None
        if address is not None:
            replay_address = reachable(replay, local) if replay else None
            found[rank] = EventSource(address, replay_address, given.topic)
    return found
