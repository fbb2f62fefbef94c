"""The word that a launching process leaves for the processes it spawns.

It stands in the environment from the check of one launch to that of the next:
only where requests are placed, or put in order where they wait, and apart from
what the user set there, so that a choice made from Python holds for one engine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import msgspec

from preble_plugin.settings import Settings
from preble_plugin.sglang_ext.outcomes import OUTCOMES_VARIABLE

SETTINGS_VARIABLE: Final = "PREBLE_PLACEMENT"
QUEUE_VARIABLE: Final = "PREBLE_LOCAL_QUEUE"


def leave(settings: Settings, outcomes: str) -> None:
    """Requests are to be placed by `settings`, and `outcomes` is the address at
    which the controller is told what becomes of them."""
    os.environ[OUTCOMES_VARIABLE] = outcomes
    os.environ[SETTINGS_VARIABLE] = msgspec.json.encode(settings).decode()


def leave_queue() -> None:
    """The schedulers are to put in order what waits."""
    os.environ[QUEUE_VARIABLE] = "1"


def take_back() -> None:
    """Nothing is to be placed or put in order; idempotent."""
    for variable in (OUTCOMES_VARIABLE, SETTINGS_VARIABLE, QUEUE_VARIABLE):
        os.environ.pop(variable, None)


def left(environment: Mapping[str, str]) -> tuple[Settings, str] | None:
    """What `leave` was given, or None where there is no word."""
    outcomes = environment.get(OUTCOMES_VARIABLE)
    if not outcomes:
        return None
    return msgspec.json.decode(environment[SETTINGS_VARIABLE], type=Settings), outcomes


def queue_left(environment: Mapping[str, str]) -> bool:
    """Whether `leave_queue` was called."""
    return bool(environment.get(QUEUE_VARIABLE))
