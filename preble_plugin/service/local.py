"""Placement in the caller's own event loop: the twin for one front end."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

from preble_plugin.core.block_keys import BlockHasher
from preble_plugin.core.report import LoadReport
from preble_plugin.core.request import Outcome, Placement, ReplicaId, Request
from preble_plugin.core.status import SchedulerStatus
from preble_plugin.service.admin import AdminSocket, AdminSocketError, ServiceStatus
from preble_plugin.service.interface import ReplicaSpec, Unplaced
from preble_plugin.service.run_dir import RunDirError, ServerDirectory
from preble_plugin.service.scheduler_host import ReplicaConflictError, SchedulerHost, Translate
from preble_plugin.settings import Settings

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


class LocalFrontend:
    """The `Frontend` with the scheduler in the caller's process.

    Nothing in it waits: `place` returns without a suspension, and `place_now` is the
    same for a caller that cannot await. Where `translate` raises, the events count as
    lost. Raises `SettingsError` for a policy that does not exist.
    """

    def __init__(self, settings: Settings, translate: Translate | None = None) -> None:
        self.host = SchedulerHost(settings, translate=translate)
        self.dropped = 0
        """Calls that failed by a fault of ours."""
        self._directory: ServerDirectory | None = None
        self._admin: AdminSocket | None = None
        self._started = False
        self._told: set[str] = set()

    @property
    def hasher(self) -> BlockHasher | None:
        """Hashes prompts for `Request.keys`; None until replicas are known."""
        return self.host.hasher

    def set_replicas(self, replicas: Sequence[ReplicaSpec]) -> None:
        """State the replicas there are now."""
        try:
            self._safely("set_replicas", lambda: self.host.set_replicas(replicas))
        except ReplicaConflictError as error:
            self.dropped += 1
            _log.error("these replicas cannot be taken: %s", error)

    async def place(self, request: Request) -> Placement | Unplaced:
        """Place a request, at once."""
        answer = self.place_now(request)
        asyncio.get_running_loop().call_soon(self.settle)
        return answer

    def place_now(self, request: Request) -> Placement | Unplaced:
        """Place a request; `settle` once it is on its way."""
        if self.host.hasher is None:
            return Unplaced("not_ready")
        answer = self._safely("place", lambda: self.host.place(request))
        return answer if answer is not None else Unplaced("error")

    def settle(self) -> None:
        """Do what the last placement left for after its answer; idempotent."""
        self._safely("settle", self.host.settle)

    def dispatched(self, request: Request, replica: ReplicaId, shadow: bool = False) -> None:
        """Account for a request that the engine's own dispatch sent to `replica`."""
        self._safely("dispatched", lambda: self.host.dispatched(request, replica, shadow=shadow))

    def observe(self, replica: ReplicaId, outcomes: Sequence[Outcome], now: float) -> None:
        """Pass on what one engine output message said."""
        self._safely("observe", lambda: self.host.observe(replica, outcomes, now))

    def report(self, replica: ReplicaId, report: LoadReport) -> list[str]:
        """Pass on what a replica says of itself; the ids of requests that it proves to
        be gone without a word. Not of `Frontend`: only an engine whose dispatcher and
        loads are in one process has such reports at hand."""
        return self._safely("report", lambda: self.host.report(replica, report)) or []

    def status(self) -> SchedulerStatus | None:
        """The scheduler's state now, or None before replicas are known."""
        return self._safely("status", self.host.status)

    async def start(self) -> None:
        """Follow the replicas' events and open the admin socket; idempotent. A run
        directory that cannot be used costs the admin socket only, with a warning."""
        if self._started:
            return
        self._started = True
        await self.host.start()
        try:
            self._directory = ServerDirectory()
            admin = AdminSocket(
                self._directory.path,
                self.host.settings.admin_socket,
                lambda: ServiceStatus(
                    os.getpid(), "front end", self.host.status(), 1, errors=self.dropped
                ),
                self.host.explain,
            )
            await admin.open()
            self._admin = admin
        except (RunDirError, AdminSocketError, OSError) as error:
            _log.warning("`preble status` and `preble explain` will not work: %s", error)

    async def close(self) -> None:
        """Stop following events and remove the admin socket; idempotent."""
        if self._admin is not None:
            await self._admin.close()
        if self._directory is not None:
            self._directory.remove()
        await self.host.close()
        self._admin = self._directory = None
        self._started = False

    def _safely(self, name: str, work: Callable[[], _Result]) -> _Result | None:
        try:
            return work()
        except ReplicaConflictError:
            raise
        except Exception as error:
            self.dropped += 1
            kind = f"{name}: {type(error).__name__}"
            if kind not in self._told:
                self._told.add(kind)
                _log.exception("scheduling failed in %s; counted from here on", kind)
            return None
