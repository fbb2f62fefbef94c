"""What cannot work, in one sentence each, with the remedy."""

from __future__ import annotations

import logging
from typing import Final

INSTEAD: Final = "or use --dp-scheduler default"
"""The end of every remedy."""


class CannotWork(ValueError):
    """Placement cannot work on this engine; the message says why and what to do."""


def refuse(reason: str, *, auto: bool, log: logging.Logger, title: str) -> None:
    """Raise `CannotWork` for `reason`, a sentence without its end, or under `auto` log one
    warning that the own dispatch of the engine named `title` is used."""
    if not auto:
        raise CannotWork(f"{reason}, {INSTEAD}.")
    log.warning("%s's own dispatch is used. %s, %s.", title, reason, INSTEAD)
