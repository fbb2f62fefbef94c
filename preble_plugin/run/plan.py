"""What `preble run` runs: one engine, or several with the router in front of them.

1. *Inside*: one engine with its own data parallelism and `--dp-scheduler preble`. This
   process becomes that engine, so that exit code, signals, log and children are its own.
2. *Apart*: one engine a replica, with the router in front (`run/apart`). It is taken where
   it is asked for, and where placement inside the engine is known not to work: `_reason`
   names the cases. Everything else is left to the engine and its adapter, which refuse with
   a remedy what they cannot do.
3. What is said twice is taken once; what is said twice and differently is an error. A user
   who gives `--dp-scheduler` himself has chosen, and is left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from preble_plugin.run.apart import Apart, backends
from preble_plugin.run.engines import DEVICE, ENGINES, HOST, PORT, SCHEDULER, Engine
from preble_plugin.run.flags import Flags, RunError
from preble_plugin.run.wish import LOOPBACK, Surroundings, Wish, once

DEFAULT_PORT: Final = 8000


class Inside(NamedTuple):
    """One engine that places by itself."""

    command: tuple[str, ...]
    remark: str | None = None


def plan(wish: Wish, around: Surroundings, directory: Callable[[], Path]) -> Inside | Apart:
    """What to run. `directory` is asked for one where several engines are to meet the
    router. Raises `RunError`."""
    engine, flags = ENGINES[wish.engine], Flags(wish.flags)
    if once("--model", wish.model, flags.text(engine.model)) is None:
        raise RunError("which model? give --model NAME-OR-DIRECTORY")
    host = once("--host", wish.host, flags.text(HOST))
    port = once("--port", wish.port, flags.number(PORT)) or DEFAULT_PORT
    inside = engine.ranks_inside(flags)
    # With ranks inside, `--dp-size` is their number in an older spelling.
    ranks = flags.number(engine.data) if inside is None else None
    replicas = once("--replicas", wish.replicas, ranks, f"{engine.data[0]} behind --")
    remark = None
    if replicas is None:
        replicas, remark = _by_devices(engine, flags, around)
    reason: str | None = "--separate"
    if not wish.separate:
        reason = _reason(engine, flags, around, inside if replicas > 1 else None)
    if reason is None:
        ours: list[str] = []
        for names, said in ((HOST, host), (PORT, str(port)), (engine.data, str(replicas))):
            if said is not None and flags.text(names) is None:
                ours += [names[0], said]
        if flags.text(SCHEDULER[:1]) is None:
            ours += [SCHEDULER[0], "preble"]
        named = wish.model if flags.text(engine.model) is None else None
        return Inside(engine.command(named, (*ours, *flags.given)), remark)
    found = backends(engine, wish, flags, around, directory(), replicas, port)
    return Apart(found, host or LOOPBACK, port, reason, remark)


def _reason(
    engine: Engine, flags: Flags, around: Surroundings, ranks_inside: str | None
) -> str | None:
    """Why the engine cannot place by itself; None where nothing is known against it.
    `ranks_inside` is the flag that gives each of several replicas ranks of its own."""
    if ranks_inside is not None:
        return f"{engine.known.title} runs one replica a server with {ranks_inside}"
    if flags.first(SCHEDULER) is not None:
        return None
    if engine.known.rust(around.environment):
        return f"{engine.known.rust_switch} is set, and placement is not in the Rust front end"
    return around.refused(engine)


def _by_devices(engine: Engine, flags: Flags, around: Surroundings) -> tuple[int, str | None]:
    """As many replicas as there are devices for, and a remark on what is left."""
    if flag := flags.first(engine.chooses):
        raise RunError(f"with {flag} say how many replicas: --replicas N")
    count = 0 if flags.text(DEVICE) == "cpu" else len(around.devices().names)
    if not count:
        raise RunError("there is no accelerator to count: say how many replicas, --replicas N")
    each = engine.devices_each(flags)
    if count < each:
        raise RunError(
            f"a replica takes {each} devices and {count} are visible: lower its parallel sizes, "
            "or make more visible"
        )
    left = count % each
    return count // each, f"{left} of {count} devices stay idle" if left else None
