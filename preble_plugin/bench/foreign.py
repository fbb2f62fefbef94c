"""How much of the machine other programs took while something was measured."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil


class ForeignLoad:
    """Counts from its making on. `ours` gives the processor seconds of what is
    measured, this process apart."""

    def __init__(self, ours: Callable[[], float]) -> None:
        self._ours = ours
        self._began = time.monotonic()
        self._start = self._foreign_seconds()

    def cores(self) -> float:
        """Cores that other programs used, on average since the start; not below 0."""
        elapsed = time.monotonic() - self._began
        return max(0.0, (self._foreign_seconds() - self._start) / elapsed)

    def _foreign_seconds(self) -> float:
        whole = psutil.cpu_times()
        busy = whole.user + whole.system + getattr(whole, "nice", 0.0)
        own = psutil.Process().cpu_times()
        return float(busy - own.user - own.system - self._ours())
