"""What a launching process tells the processes it spawns, in their environment.

It stands there from the check of one launch to that of the next, apart from what the
user set, so that a choice made from Python holds for one engine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import msgspec

from preble_plugin.settings import Settings

LAUNCH_VARIABLE: Final = "PREBLE_LAUNCH"


class Launch(msgspec.Struct, frozen=True, omit_defaults=True):
    """A server whose requests are placed, put in order where they wait, or both."""

    settings: Settings
    outcomes: str | None = None
    """Where the controller is told what becomes of requests; None where none are placed."""
    queue: bool = False
    """Its schedulers put in order what waits."""
    auto: bool = False
    """What cannot work is left to SGLang, with a warning."""


def export(launch: Launch) -> None:
    """Tell it to the processes that are spawned from here on."""
    os.environ[LAUNCH_VARIABLE] = msgspec.json.encode(launch).decode()


def clear() -> None:
    """Tell nothing; idempotent."""
    os.environ.pop(LAUNCH_VARIABLE, None)


def read(environment: Mapping[str, str]) -> Launch | None:
    """What `export` was given, or None."""
    given = environment.get(LAUNCH_VARIABLE)
    return msgspec.json.decode(given, type=Launch) if given else None
