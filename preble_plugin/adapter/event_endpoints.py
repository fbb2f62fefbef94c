"""Where the ranks of an engine publish what their caches hold, and where to read it.

1. Where all ranks are on this node, they publish on unix sockets in a private
   directory. The path has `inproc` in it, by which the engines tell ranks apart.
2. A configuration that the user gave is read as it stands. A publisher binds an
   address with a wildcard and connects to any other, unless it is told which:
   one that connects is not for us.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from preble_plugin.service.run_dir import ServerDirectory, base_directory, living_servers

EVENTS_SOCKET: Final = "inproc-e"
REPLAY_SOCKET: Final = "inproc-r"
"""No longer, with `_dp999`, than the scheduler's own socket, whose path is checked."""
_TCP: Final = re.compile(r"tcp://.+:\d+")
_WILDCARD_TCP: Final = re.compile(r"tcp://(\*|\[::\]|::|0\.0\.0\.0):(\d+)")


class EventsConfig(NamedTuple):
    """An engine's `--kv-events-config`, what matters of it."""

    enabled: bool
    publisher: str | None
    endpoint: str
    replay_endpoint: str | None
    topic: str
    binds: bool
    """Whether it binds `endpoint`, so that others can connect to it."""


class Endpoints(NamedTuple):
    """What the engine is given; it makes each rank's own of it."""

    endpoint: str
    replay_endpoint: str


def events_directory() -> ServerDirectory:
    """A directory for the ranks' sockets, beside those that `preble status` looks
    through. Raises `RunDirError`."""
    base = base_directory()
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    living_servers(base)  # refuses a base that others can use
    return ServerDirectory(base / "events")


def local_endpoints(directory: Path) -> Endpoints:
    """Unix sockets in `directory`."""
    return Endpoints(f"ipc://{directory}/{EVENTS_SOCKET}", f"ipc://{directory}/{REPLAY_SOCKET}")


def unreadable(given: EventsConfig) -> str | None:
    """Why events published by `given` cannot be read, or None."""
    if not given.enabled or given.publisher != "zmq":
        return "does not publish events"
    if given.endpoint.startswith("ipc://"):
        return None if "inproc" in given.endpoint else "has one ipc path for all ranks"
    if not given.binds or _TCP.fullmatch(given.endpoint) is None:
        return f"publishes to {given.endpoint} instead of binding an address"
    return None


def reachable(endpoint: str, local: bool) -> str | None:
    """An address to connect to for what is bound as `endpoint`, or None where only
    the publisher's own node could tell."""
    if endpoint.startswith("ipc://"):
        return endpoint if local else None
    bound = _WILDCARD_TCP.fullmatch(endpoint)
    if bound is None:
        return endpoint
    if not local or bound[2] == "0":
        return None
    return f"tcp://[::1]:{bound[2]}" if "::" in bound[1] else f"tcp://127.0.0.1:{bound[2]}"
