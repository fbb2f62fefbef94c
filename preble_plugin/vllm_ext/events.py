"""Where each rank publishes what its cache holds.

1. Where all ranks are on this node, they publish on unix sockets in a private
   directory. The path has `inproc` in it, by which vLLM tells ranks apart.
2. Across nodes they publish on TCP: on ports of the system's choice where vLLM
   tells them to its clients (from 0.31), else from port 5557 on.
3. A configuration that the user gave is read as it stands. A publisher binds an
   address with a `*` or `::`, and connects to any other: that one is not for us.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from preble_plugin.service.interface import EventSource
from preble_plugin.vllm_ext.facts import EngineFacts, EventsConfig, Topology

FIRST_PORT: Final = 5557
"""vLLM's own default, for versions that cannot choose a port."""
EVENTS_SOCKET: Final = "inproc-e"
REPLAY_SOCKET: Final = "inproc-r"
"""No longer, with `_dp999`, than the scheduler's own socket, whose path is checked."""
_BOUND_TCP: Final = re.compile(r"tcp://(\*|\[::\]|::):(\d+)")


class Endpoints(NamedTuple):
    """What `KVEventsConfig` is given; vLLM makes each rank's own of it."""

    endpoint: str
    replay_endpoint: str


def local_endpoints(directory: Path) -> Endpoints:
    """Unix sockets in `directory`."""
    return Endpoints(f"ipc://{directory}/{EVENTS_SOCKET}", f"ipc://{directory}/{REPLAY_SOCKET}")


def network_endpoints(ranks: int, chooses_ports: bool) -> Endpoints:
    """TCP ports on each rank's node."""
    if chooses_ports:
        return Endpoints("tcp://*:0", "tcp://*:0")
    return Endpoints(f"tcp://*:{FIRST_PORT}", f"tcp://*:{FIRST_PORT + ranks}")


def unreadable(given: EventsConfig, chooses_ports: bool) -> str | None:
    """Why events published by `given` cannot be read, or None."""
    if not given.enabled or given.publisher != "zmq":
        return "does not publish events"
    if given.endpoint.startswith("ipc://"):
        return None if "inproc" in given.endpoint else "has one ipc path for all ranks"
    bound = _BOUND_TCP.fullmatch(given.endpoint)
    if bound is None:
        return f"publishes to {given.endpoint} instead of binding an address"
    if bound[2] == "0" and not chooses_ports:
        return "leaves the port open, which this version of vLLM does not tell"
    return None


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
        address = _reachable(endpoint, local)
        found[rank] = None
        if address is not None:
            replay_address = _reachable(replay, local) if replay else None
            found[rank] = EventSource(address, replay_address, given.topic)
    return found


def _reachable(endpoint: str, local: bool) -> str | None:
    """An address to connect to for what is bound as `endpoint`, or None."""
    if endpoint.startswith("ipc://"):
        return endpoint if local else None
    bound = _BOUND_TCP.fullmatch(endpoint)
    if bound is None:
        return endpoint
    if not local or bound[2] == "0":
        return None
    return f"tcp://127.0.0.1:{bound[2]}" if bound[1] == "*" else f"tcp://[::1]:{bound[2]}"
