"""What the user said, and what a plan depends on besides."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata, util
from typing import Any, Final, NamedTuple

from preble_plugin.adapter.choice import SCHEDULER_KEY, choose
from preble_plugin.adapter.contract import report
from preble_plugin.adapter.known import Known
from preble_plugin.run.devices import Devices
from preble_plugin.run.engines import ENGINES, Engine
from preble_plugin.run.flags import RunError
from preble_plugin.settings import SettingsError

LOOPBACK: Final = "127.0.0.1"


class Wish(NamedTuple):
    """What the user said. None is what he did not say."""

    engine: str
    model: str | None = None
    host: str | None = None
    port: int | None = None
    replicas: int | None = None
    separate: bool = False
    flags: tuple[str, ...] = ()
    """What is behind `--`."""


class Surroundings(NamedTuple):
    """Where it is to run."""

    environment: Mapping[str, str]
    devices: Callable[[], Devices]
    """Raises `RunError`. It may take seconds."""
    version: Callable[[str], str | None]
    """Of an engine's distribution, None where that is not known."""
    port_is_free: Callable[[int], bool]
    """At loopback."""

    contract: Callable[[Known], list[tuple[str, str | None]]] = cache(report)
    """What an engine's contract says of the one installed. It takes seconds."""

    def refused(self, engine: Engine) -> str | None:
        """Why placement inside this version of the engine is refused, or None.
        Raises `RunError`."""
        known = engine.known
        try:
            choose({SCHEDULER_KEY: "preble"}, self.environment)
        except SettingsError as error:
            raise RunError(str(error)) from None
        version = self.version(known.package)
        if version is None or known.tested(version):
            return None
        try:
            broken = [touch for touch, fault in self.contract(known) if fault is not None]
        except RuntimeError as error:
            broken = [str(error)]
        if not broken:
            return None
        return f"preble relies on {', '.join(broken)}, and in {known.title} {version} it is not so"


def once(name: str, ours: Any, theirs: Any, where: str = "the same flag behind --") -> Any:
    """What is said, by whichever of the two. Raises `RunError` where they differ."""
    if ours is not None and theirs is not None and ours != theirs:
        raise RunError(f"{name} {ours}, and {where} says {theirs}: leave one of them out")
    return theirs if ours is None else ours


def version_of(package: str) -> str | None:
    """The version of a distribution, without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_installed(name: str) -> None:
    """Raise `RunError` where this Python does not have the engine."""
    engine = ENGINES[name].known
    if util.find_spec(engine.package) is None:
        raise RunError(
            f"this Python has no {engine.title}: install preble-plugin beside it, and run the "
            "`preble` of that environment"
        )


def port_is_free(port: int) -> bool:
    """Whether something could listen at it on loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True
