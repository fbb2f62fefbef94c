"""Several engines, one a replica, and the router in front of them.

1. An engine listens on loopback, at the next free port after the router's, and publishes
   its cache events on a unix socket in a private directory.
2. The visible devices are dealt out in order, as many to each as a replica takes.
3. Each engine has one rank, and the local queue where its version is tested. With DP
   attention it has several ranks, whose sockets the router does not know: it goes by what
   it placed there.
4. What would be the same for all engines and may not, or would be lost behind the router,
   is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from preble_plugin.adapter.choice import SCHEDULER_VARIABLE
from preble_plugin.adapter.event_endpoints import local_endpoints
from preble_plugin.run.devices import Devices
from preble_plugin.run.engines import DEVICE, EVENTS, HOST, KEYS, PORT, TLS, Engine
from preble_plugin.run.flags import Flags, RunError
from preble_plugin.run.wish import LOOPBACK, Surroundings, Wish

_PORTS_OF_RANKS: Final = 20
"""Between two engines with several ranks: SGLang derives some ports from its own
(`srt/server_args.py: PortArgs`)."""
_YOURSELF: Final = "start the engines yourself and `preble serve` in front of them"


class Backend(NamedTuple):
    """One engine behind the router."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """Over that of this process."""
    port: int
    events: Mapping[str, str] | None
    """Where it publishes, as the router's configuration has it."""


class Apart(NamedTuple):
    """The engines, and where the router listens."""

    backends: tuple[Backend, ...]
    host: str
    port: int
    reason: str
    """Why not one engine."""
    remark: str | None = None

    def router_keys(self) -> dict[str, Any]:
        """The router's configuration, as far as the plan gives it."""
        entries: list[dict[str, Any]] = []
        for one in self.backends:
            url = {"url": f"http://{LOOPBACK}:{one.port}"}
            entries.append({**url, "events": dict(one.events)} if one.events else {**url})
        return {"backends": entries, "host": self.host, "port": self.port}


def backends(
    engine: Engine,
    wish: Wish,
    flags: Flags,
    around: Surroundings,
    directory: Path,
    replicas: int,
    port: int,
) -> tuple[Backend, ...]:
    """The engines behind a router at `port`; each has a directory of its own in
    `directory`, named by its number. Raises `RunError`."""
    _check(engine, flags, around.environment)
    several = engine.ranks_inside(flags) is not None
    devices = Devices() if flags.text(DEVICE) == "cpu" else around.devices()
    each = engine.devices_each(flags)
    named = wish.model if flags.text(engine.model) is None else None
    common: dict[str, str] = {}
    if around.refused(engine) is None and not around.environment.get(SCHEDULER_VARIABLE):
        common[SCHEDULER_VARIABLE] = "auto"
    found: list[Backend] = []
    for place in range(replicas):
        port = _free_port(port + (_PORTS_OF_RANKS if several else 1), around.port_is_free)
        # Behind the user's: of a flag that is given twice both engines take the last.
        ours = [HOST[0], LOOPBACK, PORT[0], str(port)]
        events = None
        if not several:
            endpoint, replay = local_endpoints(directory / str(place))
            events = {"endpoint": endpoint, "replay_endpoint": replay}
            ours += [engine.data[0], "1"]
            ours += [EVENTS, json.dumps({**engine.events, "publisher": "zmq", **events})]
        environment = {**devices.share(place, each), **common}
        command = engine.command(named, (*flags.given, *ours))
        found.append(Backend(f"{engine.known.package}-{place}", command, environment, port, events))
    return tuple(found)


def _check(engine: Engine, flags: Flags, environment: Mapping[str, str]) -> None:
    """Raise `RunError` for what several engines behind a router cannot have."""
    if flag := flags.first((*engine.single, *engine.chooses)):
        raise RunError(f"{flag} is for one engine, and each replica is one: {_YOURSELF}")
    variable = next(filter(environment.get, engine.key_variables), None)
    if key := flags.first(KEYS) or variable:
        raise RunError(
            f"{key}: the router in front of the engines checks no keys, and with one of its own "
            "would open them to all who reach it: leave it out and fence the port, or "
            f"{_YOURSELF}"
        )
    if flag := flags.first(TLS):
        raise RunError(
            f"{flag}: clients speak to the router: leave it out, and give tls_cert_file and "
            "tls_key_file in --router-config FILE"
        )
    if flags.text((EVENTS,)) is not None:
        raise RunError(f"{EVENTS} would be the same for all engines: leave it out")


def _free_port(start: int, is_free: Callable[[int], bool]) -> int:
    for port in range(start, 65_536):
        if is_free(port):
            return port
    raise RunError(f"no port is free from {start} on: choose a lower --port")
