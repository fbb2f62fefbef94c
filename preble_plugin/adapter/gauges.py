"""The scheduler's state as gauges, set about each second in the event loop."""

from __future__ import annotations

import asyncio
from typing import Final

from preble_plugin.adapter.faults import Faults
from preble_plugin.service.interface import Frontend
from preble_plugin.service.metrics import PlacementMetrics

_SHOW_SECONDS: Final = 1.0


class Gauges:
    """Shows what `frontend` says of itself in `metrics`, from `start` to `stop`."""

    def __init__(self, frontend: Frontend, metrics: PlacementMetrics, faults: Faults) -> None:
        self._frontend = frontend
        self._metrics = metrics
        self._faults = faults
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Show now, and each second from now on, in the running loop."""
        self._show(asyncio.get_running_loop())

    def stop(self) -> None:
        """Show no more; idempotent. In the loop's thread."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _show(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            if (status := self._frontend.status()) is not None:
                self._metrics.show(status)
        except Exception:
            self._faults.note("metrics")
        self._timer = loop.call_later(_SHOW_SECONDS, self._show, loop)
