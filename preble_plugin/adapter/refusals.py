"""What cannot work, in one sentence each, with the remedy."""

from __future__ import annotations

import re
from typing import Final

from preble_plugin.adapter.known import Known
from preble_plugin.settings import Settings

INSTEAD: Final = "or use --dp-scheduler default"
"""The end of every remedy."""


class CannotWork(ValueError):
    """Placement cannot work on this engine; the message says why and what to do."""


def check_version(engine: Known, version: str, settings: Settings, auto: bool) -> list[str]:
    """Raise `CannotWork` for a version of `engine` outside the tested ones.

    As many numbers of a version count as the tested ones have: what follows
    them is a patch of a tested version, and taken as tested. A newer one passes
    with `allow_untested` or `auto`; the answer is then a warning of it.
    """
    title, tested = engine.title, engine.versions
    numbers = re.match(r"\.".join([r"(\d+)"] * len(engine.oldest)), version)
    found = tuple(map(int, numbers.groups())) if numbers else None
    if found is not None and engine.oldest <= found <= engine.newest:
        return []
    if found is not None and found < engine.oldest:
        raise CannotWork(
            f"--dp-scheduler preble is tested on {title} {tested} and this is {version}: "
            f"upgrade {title}, {INSTEAD}."
        )
    if settings.allow_untested or auto:
        return [
            f"--dp-scheduler preble is tested on {title} {tested} and runs untested on {version}."
        ]
    raise CannotWork(
        f"--dp-scheduler preble is tested on {title} {tested} and this is {version}: upgrade "
        "preble-plugin, accept the risk by "
        f"--dp-scheduler-config '{{\"allow_untested\": true}}', {INSTEAD}."
    )
