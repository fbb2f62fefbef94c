"""A made-up version of an engine, in which one touch has another name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from preble_plugin.adapter.contract import Touch, verify
from preble_plugin.adapter.known import Known
from preble_plugin.adapter.refusals import CannotWork


@contextmanager
def renamed(touch: Touch) -> Iterator[None]:
    """While this lasts the engine calls it otherwise."""
    owner: Any = importlib.import_module(touch.where)
    *path, last = touch.name.split(".")
    for part in path:
        owner = getattr(owner, part)
    with ExitStack() as stack:
        for one in owner.__mro__[:-1] if isinstance(owner, type) else [owner]:
            _take(stack, one, last)
        yield


def _take(stack: ExitStack, owner: Any, name: str) -> None:
    if isinstance(owner, type):
        if name in inspect.get_annotations(owner):
            own = owner.__annotations__
            stack.callback(own.__setitem__, name, own.pop(name))
        for function in filter(inspect.isfunction, vars(owner).values()):
            function = inspect.unwrap(function)
            code = function.__code__
            if name in code.co_names:
                names = tuple(f"other_{one}" if one == name else one for one in code.co_names)
                stack.callback(setattr, function, "__code__", code)
                function.__code__ = code.replace(co_names=names)
    if name in vars(owner):
        kind: Any = type if isinstance(owner, type) else object
        stack.callback(kind.__setattr__, owner, name, vars(owner)[name])
        kind.__delattr__(owner, name)


def refusal(known: Known, contract: Sequence[Touch], touch: Touch) -> str:
    """How a made-up version with this touch renamed is refused: by the name of the first
    that does not hold, which is this one, or one below or above it."""
    with renamed(touch):
        assert touch.fault() is not None
        first = next(one for one in contract if one.fault() is not None)
        with pytest.raises(CannotWork) as refused:
            verify(known, "99.0.0", contract)
    said = str(refused.value)
    assert said.startswith(
        f"--dp-scheduler preble relies on {first} of {known.title}, and in 99.0.0 it "
    )
    return said
