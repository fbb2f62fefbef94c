"""Which scheduler the user chose, and with which settings.

1. The flag writes the choice into the environment, so that the processes that
   an engine spawns read what their parent read.
2. From Python it is keys among the engine's own arguments. They are taken out
   before the engine sees them.
3. What is given from Python wins over the environment, key by key.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from preble_plugin.settings import Settings, SettingsError, merge_settings

SCHEDULER_VARIABLE: Final = "PREBLE_DP_SCHEDULER"
"""Environment variable with the value of `--dp-scheduler`."""
SCHEDULER_KEY: Final = "dp_scheduler"
CONFIG_KEY: Final = "dp_scheduler_config"


class DpScheduler(enum.StrEnum):
    """Values of `--dp-scheduler`."""

    DEFAULT = "default"
    PREBLE = "preble"
    AUTO = "auto"


class Choice(NamedTuple):
    """The user's choice in one process."""

    scheduler: DpScheduler
    settings: Settings


def split(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our keys among the arguments given from Python, and the others.

    `dp_scheduler_config` holds settings as a mapping, JSON or `@file`. Beside
    `dp_scheduler` the settings may also stand as keys of their own.
    """
    ours = {SCHEDULER_KEY, CONFIG_KEY}
    if SCHEDULER_KEY in given:
        ours |= set(Settings.__struct_fields__)
    return (
        {key: value for key, value in given.items() if key in ours},
        {key: value for key, value in given.items() if key not in ours},
    )


def choose(
    ours: Mapping[str, Any], environment: Mapping[str, str], argument: str = SCHEDULER_KEY
) -> Choice:
    """The choice by our keys as given from Python, then by the environment.

    `argument` is what an error calls the key of the scheduler. Settings are read
    only where they are used. Raises `SettingsError`.
    """
    if SCHEDULER_KEY in ours:
        name, source = ours[SCHEDULER_KEY], argument
    else:
        name, source = environment.get(SCHEDULER_VARIABLE) or "default", SCHEDULER_VARIABLE
    try:
        scheduler = DpScheduler(name)
    except ValueError:
        raise SettingsError(
            f"{source} takes one of {', '.join(DpScheduler)}, got {name!r}"
        ) from None
    if scheduler is DpScheduler.DEFAULT:
        return Choice(scheduler, Settings())
    beside = {key: ours[key] for key in ours if key not in (SCHEDULER_KEY, CONFIG_KEY)}
    settings = merge_settings(ours.get(CONFIG_KEY), environment)
    if beside:
        inherited = msgspec.to_builtins(settings)
        settings = merge_settings({**inherited, **beside}, {})
    return Choice(scheduler, settings)
