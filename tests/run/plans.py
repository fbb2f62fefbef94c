"""Plans for tests: a machine of so many devices, and what is said on the command line."""

from __future__ import annotations

from pathlib import Path

from preble_plugin.run.apart import Apart
from preble_plugin.run.devices import Devices
from preble_plugin.run.plan import Inside, plan
from preble_plugin.run.wish import Surroundings, Wish

TESTED = {"vllm": "0.32.0+cpu", "sglang": "0.5.23"}


def planned(
    engine: str,
    *flags: str,
    devices: int = 8,
    environment: dict[str, str] | None = None,
    version: str | None = None,
    broken: bool = True,
    taken: tuple[int, ...] = (),
    model: str | None = "M",
    host: str | None = None,
    port: int | None = None,
    replicas: int | None = None,
    separate: bool = False,
) -> Inside | Apart:
    """The plan for `preble run ENGINE ... -- FLAGS`."""
    names = tuple(map(str, range(devices)))
    around = Surroundings(
        environment or {},
        lambda: Devices("cuda" if devices else "cpu", names),
        lambda package: version or TESTED[package],
        lambda port: port not in taken,
        lambda known: [("module:Kind", None), ("module:Other", "is not there" if broken else None)],
    )
    wish = Wish(engine, model, host, port, replicas, separate, flags)
    return plan(wish, around, lambda: Path("/run"))


def inside(engine: str, *flags: str, **said: object) -> list[str]:
    """The arguments of the one engine, behind the Python program."""
    found = planned(engine, *flags, **said)  # type: ignore[arg-type]
    assert isinstance(found, Inside), found
    return list(found.command[4:])


def apart(engine: str, *flags: str, **said: object) -> Apart:
    """The engines and their router."""
    found = planned(engine, *flags, **said)  # type: ignore[arg-type]
    assert isinstance(found, Apart), found
    return found
