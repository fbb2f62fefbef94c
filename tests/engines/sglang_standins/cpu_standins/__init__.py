"""What the stand-ins share: names that can be imported, and say so when called."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn


def absent(module: str, name: str) -> Callable[..., NoReturn]:
    """A function under `name` of `module` that raises `NotImplementedError` when called.

    Raises `AttributeError` for dunder names: Python asks modules for those.
    """
    if name.startswith("__"):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    def missing(*arguments: object, **named: object) -> NoReturn:
        raise NotImplementedError(f"{module}.{name} is not in the stand-in for a CPU")

    missing.__name__ = name
    return missing
