"""`--dp-scheduler` and `--dp-scheduler-config`, for an engine's argparse parser.

The engine's own parsing does the rest, such as the same keys in the YAML of
`--config` (a mapping arrives as JSON). SGLang 0.5.22 takes there only what is of
argparse's own kind for `store`, and so ours are.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

import msgspec

from preble_plugin.adapter.choice import SCHEDULER_VARIABLE, DpScheduler
from preble_plugin.settings import CONFIG_VARIABLE, SettingsError, merge_settings


def add_arguments(parser: argparse.ArgumentParser, engine: str) -> None:
    """Add the group `preble` to the parser of `engine`, named as in its manual."""
    group = parser.add_argument_group(
        title="preble",
        description="Prefix-aware placement of requests on data-parallel ranks.",
    )
    group.add_argument(
        "--dp-scheduler",
        choices=[scheduler.value for scheduler in DpScheduler],
        action=_PutScheduler,
        default=None,
        help="How requests are placed on data-parallel ranks. Without it, "
        f"`{SCHEDULER_VARIABLE}` in the environment decides.\n"
        f'- "default": by {engine} itself.\n'
        '- "preble": by cached prefixes and load; an error where that cannot work.\n'
        '- "auto": as "preble" where that can work, otherwise as "default", '
        "with a warning that says why.",
    )
    group.add_argument(
        "--dp-scheduler-config",
        metavar="JSON|@FILE",
        action=_PutConfig,
        default=None,
        help="Settings of the placement, as JSON or @ and the path of a JSON or YAML "
        f"file. What it leaves out comes from `{CONFIG_VARIABLE}` in the environment.",
    )


class _PutScheduler(argparse._StoreAction):
    """Carries the choice to the processes that the engine spawns."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, values)
        os.environ[SCHEDULER_VARIABLE] = str(values)


class _PutConfig(argparse._StoreAction):
    """Checks the settings and carries them along, files read."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, values)
        try:
            settings = merge_settings(str(values))
        except SettingsError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        os.environ[CONFIG_VARIABLE] = msgspec.json.encode(settings).decode()
