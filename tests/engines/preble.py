"""The scheduler of a server that runs, as its admin socket shows it.

    before = Scheduler().settled()

It is the same whichever engine places requests by it. The servers of these tests
share a run directory of their own: `RUN_ENVIRONMENT`.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from preble_plugin.core.receipts import Receipt
from preble_plugin.core.status import ReplicaStatus, SchedulerStatus
from preble_plugin.service.admin import (
    AdminSocketError,
    ExplainQuestion,
    Explanation,
    ServiceStatus,
    StatusQuestion,
    ask,
)
from preble_plugin.service.run_dir import ADMIN_SOCKET, living_servers

_Result = TypeVar("_Result")


def _run_dir() -> Path:
    if shared := os.environ.get("PREBLE_TEST_RUN_DIR"):
        return Path(shared)
    made = Path(tempfile.mkdtemp(prefix="preble-t"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


RUN_DIR = _run_dir()
"""A run directory of these tests alone; programs they start share it."""
RUN_ENVIRONMENT = (("PREBLE_RUN_DIR", str(RUN_DIR)),)


class Scheduler:
    """The scheduler of the one server that runs, through its admin socket."""

    @property
    def socket(self) -> Path:
        found = [path / ADMIN_SOCKET for path in living_servers(RUN_DIR)]
        sockets = [path for path in found if path.exists()]
        assert len(sockets) == 1, sockets
        return sockets[0]

    def service(self) -> ServiceStatus:
        answer = ask(self.socket, StatusQuestion())
        assert isinstance(answer, ServiceStatus)
        return answer

    def status(self) -> SchedulerStatus:
        status = self.service().scheduler
        assert status is not None
        return status

    def settled(self) -> SchedulerStatus:
        """The status once no request is in flight."""
        return until(self.status, lambda status: status.in_flight == 0)

    def replica(self, rank: int) -> ReplicaStatus:
        return next(one for one in self.settled().replicas if one.replica == rank)

    def receipts(self, request_id: str) -> list[Receipt]:
        answer = ask(self.socket, ExplainQuestion(request_id))
        assert isinstance(answer, Explanation)
        return answer.receipts

    def receipt(self, request_id: str) -> Receipt:
        """The decision for a request, once its end is known."""

        def ended() -> Receipt:
            (receipt,) = self.receipts(request_id)
            return receipt

        return until(ended, lambda receipt: receipt.finish is not None)


class Audit:
    """What was predicted and what the engines said, between two statuses."""

    def __init__(self, before: SchedulerStatus, after: SchedulerStatus) -> None:
        def grown(field: str) -> int:
            sums: list[int] = [
                sum(getattr(one, field) for one in it.replicas) for it in (before, after)
            ]
            return sums[1] - sums[0]

        self.requests = grown("audited_requests")
        self.exact = grown("exact_audits")
        self.predicted = grown("predicted_cached_tokens")
        self.actual = grown("actual_cached_tokens")

    def __repr__(self) -> str:
        return (
            f"{self.exact} of {self.requests} exact, "
            f"{self.predicted} tokens predicted, {self.actual} actual"
        )


def until(
    read: Callable[[], _Result], wanted: Callable[[_Result], bool], seconds: float = 10.0
) -> _Result:
    """What `read` says once it is as wanted; it is asked again for `seconds`."""
    end = time.monotonic() + seconds
    while True:
        try:
            found = read()
            if wanted(found):
                return found
            last: object = found
        except (AdminSocketError, AssertionError) as error:
            last = error
        assert time.monotonic() < end, f"still not as wanted: {last}"
        time.sleep(0.02)
