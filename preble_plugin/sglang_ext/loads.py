"""SGLang's load snapshots, joined into the load and the time model.

Each rank leaves a snapshot in shared memory after its steps. It is read ten times
a second, and what is new in it becomes a `LoadReport` of the scheduler.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from preble_plugin.adapter.faults import Faults
from preble_plugin.core.report import LoadReport
from preble_plugin.service.local import LocalFrontend
from preble_plugin.sglang_ext import hooks

_READ_SECONDS: Final = 0.1


class Loads:
    """Reads the snapshots of a controller's ranks, from `start` to `stop`. `on_lost`
    is told of requests that a rank turns out not to have."""

    def __init__(
        self,
        engine: Any,
        frontend: LocalFrontend,
        faults: Faults,
        on_lost: Callable[[Sequence[str]], None],
    ) -> None:
        self._engine = engine
        self._on_lost = on_lost
        self._frontend = frontend
        self._faults = faults
        self._seen: dict[int, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Read now and regularly in the running loop."""
        self._read(asyncio.get_running_loop())

    def stop(self) -> None:
        """Read no more; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            ahead = time.monotonic() - time.time()
            for one in hooks.loads(self._engine):
                if self._seen.get(one.rank) == one.timestamp:
                    continue
                self._seen[one.rank] = one.timestamp
                report = LoadReport(
                    as_of=one.timestamp + ahead,
                    running=one.running,
                    waiting=one.waiting,
                    prefill_tokens=one.prefill_tokens,
                    prefill_seconds=one.prefill_seconds,
                    decode_steps=one.decode_steps,
                    decode_requests=one.decode_requests,
                    decode_seconds=one.decode_seconds,
                    decode_tokens=one.decode_tokens,
                )
                if lost := self._frontend.report(one.rank, report):
                    self._on_lost(lost)
        except Exception:
            self._faults.note("loads")
        self._timer = loop.call_later(_READ_SECONDS, self._read, loop)
