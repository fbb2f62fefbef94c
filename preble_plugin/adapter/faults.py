"""What went wrong on our side: counted by where, the first of each logged.

What the engine does by itself goes on whatever happens here, so a fault is seen in
the log and in its count, and nowhere else.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final


class Faults:
    """The faults of one dispatcher, or of one queue. `engine` is what the log calls the
    engine, `own` what the engine does by itself then."""

    def __init__(self, log: logging.Logger, engine: str, own: str = "dispatch") -> None:
        self.counts: Final[Counter[str]] = Counter()
        """How many there were, by where."""
        self._log = log
        self._engine = engine
        self._own = own

    def note(self, where: str) -> None:
        """Count the exception being handled; the first one there is logged."""
        self.counts[where] += 1
        if self.counts[where] == 1:
            self._log.exception(
                "preble failed in %s; %s's own %s goes on, counted from here on",
                where,
                self._engine,
                self._own,
            )
