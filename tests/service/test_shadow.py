"""Shadow mode on both twins: told where requests went, they say what they would have done."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from service_builders import PATIENT, MakeTwin, document, hasher_of, replica, request, until

from preble_plugin.core import Finished, FirstToken, Receipt
from preble_plugin.core.receipts import WouldBe
from preble_plugin.core.status import SchedulerStatus, ShadowStatus
from preble_plugin.service.admin import ExplainQuestion, Explanation, ask
from preble_plugin.service.interface import Frontend
from preble_plugin.service.run_dir import ADMIN_SOCKET, living_servers
from preble_plugin.settings import Settings

SHADOW = Settings(shadow=True, placement_deadline_seconds=PATIENT.placement_deadline_seconds)
TOKENS = len(document(1))


@pytest.fixture
async def twin(twin_of: MakeTwin) -> Frontend:
    """Each twin in shadow mode, with two replicas."""
    twin = await twin_of(SHADOW)
    twin.set_replicas([replica(0), replica(1)])
    await until(lambda: twin.hasher is not None)
    return twin


def went(twin: Frontend, name: str, rank: int, number: int = 1) -> None:
    """The engine's own dispatch sent a document to `rank`."""
    twin.dispatched(request(hasher_of(twin), name, document(number)), rank, shadow=True)


async def shadow_of(twin: Frontend, requests: int) -> ShadowStatus:
    """The sums once so many requests are decided."""
    found: list[SchedulerStatus | None] = []

    def decided() -> bool:
        found[:] = [twin.status()]
        shadow = found[0].shadow if found[0] is not None else None
        return shadow is not None and shadow.requests == requests

    await until(decided)
    assert found[0] is not None
    assert found[0].shadow is not None
    return found[0].shadow


def receipt_of(run_dir: Path, name: str) -> Receipt:
    (server,) = living_servers(run_dir)
    answer = ask(server / ADMIN_SOCKET, ExplainQuestion(name))
    assert isinstance(answer, Explanation)
    return answer.receipts[0]


async def test_before_anything_was_asked_it_says_that_it_is_shadow(twin: Frontend) -> None:
    assert await shadow_of(twin, 0) == ShadowStatus()


async def test_both_sides_are_counted(twin: Frontend) -> None:
    went(twin, "r1", 0)
    await shadow_of(twin, 1)
    now = time.monotonic()
    twin.observe(0, [FirstToken("r1", 0), Finished("r1", 4)], now)
    went(twin, "r2", 1)
    shadow = await shadow_of(twin, 2)
    assert (shadow.prompt_tokens, shadow.cached_tokens) == (2 * (TOKENS + 1), 0)
    assert (shadow.elsewhere >= 1, shadow.would_be_cached_tokens) == (True, TOKENS)
    status = twin.status()
    assert status is not None
    assert [one.running for one in status.replicas] == [0, 1]


async def test_requests_told_over_again_are_not_decided_again(twin: Frontend) -> None:
    went(twin, "r1", 0)
    await shadow_of(twin, 1)
    twin.dispatched(request(hasher_of(twin), "r1", document(1)), 0)
    went(twin, "r2", 1, number=2)
    await shadow_of(twin, 2)


async def test_out_of_shadow_mode_the_status_says_nothing_of_it(twin_of: MakeTwin) -> None:
    twin = await twin_of(PATIENT)
    twin.set_replicas([replica(0)])
    await until(twin.status)
    status = twin.status()
    assert status is not None
    assert status.shadow is None


async def test_the_receipt_travels_with_the_choice(run_dir: Path, twin: Frontend) -> None:
    went(twin, "r1", 0)
    went(twin, "r2", 1)
    await shadow_of(twin, 2)
    receipt = await asyncio.to_thread(receipt_of, run_dir, "client-r2")
    assert (receipt.replica, receipt.branch, receipt.predicted_cached_tokens) == (1, "engine", 0)
    assert receipt.would_be == WouldBe(0, "exploit", TOKENS)
