"""The scheduler process may die: no request fails, and it comes back filled."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from preble_plugin.bench.vllm_server import VllmServer
from preble_plugin.core.status import Trust
from preble_plugin.service.admin import ServiceStatus
from tests.engines import serving
from tests.engines.client import Client, in_parallel, tokens
from tests.engines.preble import Scheduler, until
from tests.vllm.preble_servers import TWO

pytestmark = pytest.mark.vllm
STREAMS = 6
BACK_WITHIN_SECONDS = 5.0


@pytest.fixture
def client(server: VllmServer) -> Client:
    return Client(server)


def back(now: ServiceStatus) -> bool:
    """Whether both front ends have it back, with all residency refilled."""
    replicas = now.scheduler.replicas if now.scheduler is not None else []
    return (now.front_ends, [one.trust for one in replicas]) == (2, [Trust.EXACT] * 2)


@serving(TWO)
def test_no_request_fails_and_placements_return_filled(server: VllmServer, client: Client) -> None:
    scheduler = Scheduler()
    document = tokens(300, 1500)
    client.complete(document)
    until(scheduler.settled, lambda found: max(one.resident_blocks for one in found.replicas) > 45)
    killed = threading.Event()
    returned = threading.Event()
    answered = [0] * STREAMS

    def load(index: int) -> None:
        while not returned.is_set() and answered[index] < 2000:
            client.complete(tokens(301 + index, 200) + tokens(answered[index], 30))
            answered[index] += 1

    def kill(_: int) -> float:
        until(lambda: min(answered), lambda least: least >= 3, seconds=60)
        old = scheduler.service()
        os.kill(old.pid, signal.SIGKILL)
        began = time.monotonic()
        killed.set()
        try:
            until(
                scheduler.service,
                lambda now: (
                    now.pid != old.pid
                    and now.front_ends == 2
                    and now.scheduler is not None
                    and now.scheduler.placements > STREAMS
                    and all(one.trust is Trust.EXACT for one in now.scheduler.replicas)
                ),
                seconds=BACK_WITHIN_SECONDS,
            )
            return time.monotonic() - began
        finally:
            returned.set()

    def work(index: int) -> float:
        return kill(index) if index == STREAMS else load(index) or 0.0

    seconds = in_parallel(STREAMS + 1, work)[-1]
    assert seconds < BACK_WITHIN_SECONDS
    assert min(answered) > 3
    # It knows what was cached before it was born, and says it right.
    scheduler.settled()
    answer = client.complete(document + tokens(999, 20))
    receipt = scheduler.receipt(answer["id"])
    assert receipt.predicted_cached_tokens == receipt.actual_cached_tokens
    fallbacks = server.metrics().by("cause", "preble:fallbacks_total")
    assert set(fallbacks) <= {"scheduler_down", "deadline", "not_ready"}


@serving(TWO)
def test_predictions_stay_right_after_a_restart(client: Client, server: VllmServer) -> None:
    scheduler = Scheduler()
    documents = [tokens(400 + i, 500) for i in range(8)]
    for document in documents:
        client.complete(document)
    old = scheduler.service().pid
    os.kill(old, signal.SIGKILL)
    until(scheduler.service, lambda now: now.pid != old and back(now))
    for document in documents:
        receipt = scheduler.receipt(client.complete(document + tokens(500, 9))["id"])
        assert receipt.predicted_cached_tokens == receipt.actual_cached_tokens > 0
        scheduler.settled()
