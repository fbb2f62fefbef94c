"""The contract with an engine: what must hold of each private name that an adapter touches.

1. A `Touch` names an attribute below a module of the engine, and what must hold of it.
   Each adapter declares its touches once, in its `contract.py`.
2. Every process that uses them verifies them, before the model loads where that is
   possible. The contract tests take the same declarations one by one.
3. Versions decide nothing: an engine whose contract holds is served.
"""

from __future__ import annotations

import dis
import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from preble_plugin.adapter.known import Known
from preble_plugin.adapter.refusals import INSTEAD, CannotWork

Condition = Callable[[Any], str | None]
"""Says what does not hold of the attribute that was found, or None."""
_MISSING: Final = object()


class Touch(NamedTuple):
    """One touch of an engine's private API."""

    where: str
    """The module."""
    name: str
    """Dotted path of the attribute below the module."""
    holds: tuple[Condition, ...] = ()
    """What must hold of it, beside that it is there."""

    def __str__(self) -> str:
        return f"{self.where}:{self.name}"

    def fault(self) -> str | None:
        """What does not hold, or None. Imports the module; never raises."""
        try:
            found: Any = importlib.import_module(self.where)
        except Exception as error:
            return f"cannot be imported: {type(error).__name__}: {error}"
        for part in self.name.split("."):
            found = _attribute(found, part)
            if found is _MISSING:
                return "is not there"
            if isinstance(found, type):  # a class of ours may stand in its place
                found = vars(found).get("__wrapped__", found)
        for condition in self.holds:
            try:
                fault = condition(found)
            except Exception as error:
                fault = f"fails its probe: {type(error).__name__}: {error}"
            if fault is not None:
                return fault
        return None


def touches(declared: Mapping[str, Sequence[Condition]]) -> tuple[Touch, ...]:
    """What must hold of each `module:attribute`."""
    return tuple(
        Touch(*at.split(":", 1), holds=tuple(holds))  # type: ignore[arg-type, misc]
        for at, holds in declared.items()
    )


def verify(engine: Known, version: str, contract: Iterable[Touch]) -> list[str]:
    """Raise `CannotWork` where a touch of `engine` does not hold; what to log otherwise."""
    for touch in contract:
        if (fault := touch.fault()) is not None:
            raise CannotWork(
                f"--dp-scheduler preble relies on {touch} of {engine.title}, and in {version} it "
                f"{fault}: use {engine.title} {engine.versions}, upgrade preble-plugin, {INSTEAD}."
            )
    if engine.tested(version):
        return []
    return [
        f"--dp-scheduler preble is tested on {engine.title} {engine.versions} and this is "
        f"{version}: all that is used of it is as it was there, and it is served."
    ]


def report(engine: Known) -> list[tuple[str, str | None]]:
    """Each touch of `engine` and its fault, as a new process finds them. Takes seconds.

    Raises RuntimeError where that process fails.
    """
    command = [sys.executable, "-m", __name__, engine.contract]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise RuntimeError(last or f"it ended with {done.returncode}")
    return [(touch, fault) for touch, fault in json.loads(done.stdout.splitlines()[-1])]


# --- what can be said of an attribute -----------------------------------------


def takes(*names: str) -> Condition:
    """A function with exactly these parameters, whatever wraps it."""

    def condition(found: Any) -> str | None:
        there = tuple(inspect.signature(_function(found)).parameters)
        return None if there == names else f"takes ({', '.join(there)}), not ({', '.join(names)})"

    return condition


def called(*args: Any, **kwargs: Any) -> Condition:
    """A function or class that can be called so."""

    def condition(found: Any) -> str | None:
        try:
            inspect.signature(_function(found)).bind(*args, **kwargs)
        except TypeError as error:
            return f"cannot be called as it is here: {error}"
        return None

    return condition


def static(found: Any) -> str | None:
    """A static method."""
    return None if isinstance(found, staticmethod) else "is no static method"


def coroutine(found: Any) -> str | None:
    """A coroutine function."""
    return None if inspect.iscoroutinefunction(_function(found)) else "is no coroutine function"


def has(*names: str) -> Condition:
    """Has these attributes: declared, or set by its methods. Each of `names` may hold
    several, with spaces between."""
    wanted = [name for one in names for name in one.split()]

    def condition(found: Any) -> str | None:
        missing = [name for name in wanted if _attribute(found, name) is _MISSING]
        return f"has no {', '.join(missing)}" if missing else None

    return condition


def mentions(*names: str) -> Condition:
    """A function whose code names these attributes, globals or strings. `names` as in `has`."""
    wanted = {name for one in names for name in one.split()}

    def condition(found: Any) -> str | None:
        there = {name for code in _codes(found) for name in (*code.co_names, *code.co_consts)}
        return f"does not use {', '.join(sorted(wanted - there))}" if wanted - there else None

    return condition


def probe(words: str, holds: Callable[[Any], object]) -> Condition:
    """`holds` is true of it, which `words` say."""
    return lambda found: None if holds(_plain(found)) else f"is not so that {words}"


def _by_rank(offset: Any) -> bool:
    local = [offset("ipc:///d/inproc-e", rank) for rank in (0, 3)]
    return local == ["ipc:///d/inproc-e", "ipc:///d/inproc-e_dp3"] and (
        offset("tcp://*:5557", 3) == "tcp://*:5560"
    )


TELLS_RANKS_APART: Final = probe("it tells the endpoints of ranks apart", _by_rank)
"""Of `offset_endpoint_port(endpoint, rank)`, which the engines share."""


# --- finding attributes -------------------------------------------------------


def _attribute(owner: Any, name: str) -> Any:
    """The attribute as its owner has it, `name` itself where only instances do, or
    `_MISSING`."""
    found = inspect.getattr_static(owner, name, _MISSING)
    if found is not _MISSING or not isinstance(owner, type):
        return found
    declared = any(name in inspect.get_annotations(base) for base in owner.__mro__)
    return name if declared or setters(owner, name) else _MISSING


def setters(owner: type, name: str) -> list[str]:
    """The methods of a class and its bases that set the attribute `name`."""
    return [
        method
        for base in owner.__mro__
        for method, one in vars(base).items()
        if any(
            name in code.co_names
            and ("STORE_ATTR", name)
            in ((it.opname, it.argval) for it in dis.get_instructions(code))
            for code in _codes(one)
        )
    ]


def _plain(found: Any) -> Any:
    return found.__func__ if isinstance(found, (staticmethod, classmethod)) else found


def _function(found: Any) -> Any:
    return inspect.unwrap(_plain(found))


def _codes(found: Any) -> Iterator[Any]:
    """The code of a function and of those inside it."""
    found = found.fget if isinstance(found, property) else found
    codes = [getattr(_function(found), "__code__", None)] if callable(_plain(found)) else []
    while codes:
        if (code := codes.pop()) is not None:
            yield code
            codes += [one for one in code.co_consts if inspect.iscode(one)]


def _main(module: str) -> None:
    """Print the report. Raises what keeps a module of the engine from being imported,
    unless it is not there: then its touches say so."""
    declared: tuple[Touch, ...] = importlib.import_module(module).CONTRACT
    for where in {touch.where for touch in declared}:
        try:
            importlib.import_module(where)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{where}.".startswith(f"{error.name}."):
                raise
    print(json.dumps([(str(touch), touch.fault()) for touch in declared]))


if __name__ == "__main__":
    _main(sys.argv[1])
