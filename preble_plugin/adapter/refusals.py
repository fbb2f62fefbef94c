"""What cannot work, in one sentence each, with the remedy."""

from __future__ import annotations

import re
from typing import Final

from preble_plugin.settings import Settings

INSTEAD: Final = "or use --dp-scheduler default"
"""The end of every remedy."""


class CannotWork(ValueError):
    """Placement cannot work on this engine; the message says why and what to do."""


def check_version(
    engine: str,
    version: str,
    oldest: tuple[int, ...],
    newest: tuple[int, ...],
    settings: Settings,
    auto: bool,
) -> list[str]:
    """Raise `CannotWork` for a version of `engine` outside the tested ones.

    As many numbers of a version count as `oldest` and `newest` have: what follows
    them is a patch of a tested version, and taken as tested. A newer one passes
    with `allow_untested` or `auto`; the answer is then a warning of it.
    """
    tested = f"{_dotted(oldest)} to {_dotted(newest)}"
    numbers = re.match(r"\.".join([r"(\d+)"] * len(oldest)), version)
    found = tuple(map(int, numbers.groups())) if numbers else None
    if found is not None and oldest <= found <= newest:
        return []
    if found is not None and found < oldest:
        raise CannotWork(
            f"--dp-scheduler preble is tested on {engine} {tested} and this is {version}: "
            f"upgrade {engine}, {INSTEAD}."
        )
    if settings.allow_untested or auto:
        return [
            f"--dp-scheduler preble is tested on {engine} {tested} and runs untested on {version}."
        ]
    raise CannotWork(
        f"--dp-scheduler preble is tested on {engine} {tested} and this is {version}: upgrade "
        "preble-plugin, accept the risk by "
        f"--dp-scheduler-config '{{\"allow_untested\": true}}', {INSTEAD}."
    )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
