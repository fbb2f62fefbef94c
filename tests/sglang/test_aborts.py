"""However a request leaves, nothing of it is left, and placements go on exact."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from preble_plugin.bench.sglang_server import SglangServer
from preble_plugin.core.status import SchedulerStatus
from tests.engines import serving
from tests.engines.client import in_parallel, tokens
from tests.engines.preble import Audit, Scheduler, until
from tests.sglang.preble_servers import TWO, SglangClient

pytestmark = [pytest.mark.sglang, serving(TWO)]
LONG = 3000
"""Tokens to generate: more than a test waits for, fewer than a rank holds."""
HALF = 2500
"""A prompt beside which a rank has no room for another like it."""


@pytest.fixture
def client(server: SglangServer) -> SglangClient:
    return SglangClient(server)


@pytest.fixture
def scheduler(client: SglangClient) -> Iterator[Scheduler]:
    """Afterwards all is at rest, and what is cached is predicted to the token."""
    scheduler = Scheduler()
    yield scheduler
    until(scheduler.status, at_rest)
    for seed in range(4):
        document = tokens(900 + seed, 200)
        for _ in range(2):
            answer = client.generate(document + tokens(seed, 20))
            found = scheduler.receipt(answer["meta_info"]["id"])
            assert found.predicted_cached_tokens == found.actual_cached_tokens
        assert found.actual_cached_tokens == 208


def at_rest(now: SchedulerStatus) -> bool:
    """Nothing in flight, and no load left, not even a trace of it."""
    return now.in_flight == 0 and all(
        (one.running, one.queued_prefill_seconds, one.queued_decode_seconds, one.expected_blocks)
        == (0, 0.0, 0.0, 0)
        for one in now.replicas
    )


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def finish(scheduler: Scheduler, rid: str) -> str | None:
    return scheduler.receipt(rid).finish


def aborted(answer: Future[httpx.Response]) -> dict[str, Any]:
    reason: dict[str, Any] = answer.result().json()["meta_info"]["finish_reason"]
    return reason


def test_a_client_that_hangs_up_is_released(client: SglangClient, scheduler: Scheduler) -> None:
    chunks = client.generated(tokens(13, 100), max_new_tokens=LONG, rid="hangs-up")
    next(chunks)
    assert scheduler.status().in_flight == 1
    chunks.close()  # type: ignore[attr-defined]
    receipt = scheduler.receipt("hangs-up")
    assert (receipt.finish, (receipt.output_tokens or 0) > 0) == ("aborted", True)


def test_requests_that_hang_up_before_they_are_answered_are_released(
    client: SglangClient, scheduler: Scheduler
) -> None:
    """Some are aborted before they are placed, some queued, some running."""

    def hang_up(index: int) -> None:
        body = {"input_ids": tokens(100 + index, 900), "sampling_params": {"max_new_tokens": 50}}
        with contextlib.suppress(httpx.TimeoutException):
            client.http.post("/generate", json=body, timeout=0.01 * (1 + index % 20))

    in_parallel(40, hang_up)
    until(scheduler.status, at_rest, seconds=30)


def test_a_running_request_is_aborted_by_its_id(client: SglangClient, scheduler: Scheduler) -> None:
    chunks = client.generated(tokens(14, 100), max_new_tokens=LONG, rid="runs")
    next(chunks)
    client.abort("runs")
    *_, last = chunks
    assert last["meta_info"]["finish_reason"]["type"] == "abort"
    receipt = scheduler.receipt("runs")
    assert (receipt.finish, (receipt.output_tokens or 0) > 0) == ("aborted", True)


def test_a_queued_request_is_aborted_by_its_id(
    client: SglangClient, scheduler: Scheduler, threads: ThreadPoolExecutor
) -> None:
    running = client.generated(tokens(15, HALF), max_new_tokens=1000, rid="fills", routed_dp_rank=0)
    next(running)
    queued = threads.submit(client.ask, tokens(16, HALF), rid="queues", routed_dp_rank=0)
    until(client.waiting, lambda count: count == 1)
    client.abort("queues")
    assert aborted(queued)["type"] == "abort"
    receipt = scheduler.receipt("queues")
    assert (receipt.finish, receipt.actual_cached_tokens) == ("aborted", None)
    assert scheduler.status().in_flight == 1
    client.abort("fills")
    assert finish(scheduler, "fills") == "aborted"


def test_requests_are_aborted_by_the_beginning_of_their_ids(
    client: SglangClient, scheduler: Scheduler
) -> None:
    rids = {"part": 0, "part1": 0, "part2": 1, "other": 1}
    streams = {
        rid: client.generated(
            tokens(60 + i, 50), max_new_tokens=600, rid=rid, routed_dp_rank=rids[rid]
        )
        for i, rid in enumerate(rids)
    }
    for chunks in streams.values():
        next(chunks)
    client.abort("part")
    found = {rid: list(chunks)[-1]["meta_info"]["finish_reason"] for rid, chunks in streams.items()}
    expected = {"part": "abort", "part1": "abort", "part2": "abort", "other": "length"}
    assert {rid: reason["type"] for rid, reason in found.items()} == expected
    assert [finish(scheduler, rid) for rid in rids] == 3 * ["aborted"] + ["finished"]


def test_all_requests_are_aborted_at_once(
    client: SglangClient, scheduler: Scheduler, threads: ThreadPoolExecutor
) -> None:
    before = scheduler.settled()
    running = [
        client.generated(tokens(70 + rank, HALF), max_new_tokens=1000, routed_dp_rank=rank)
        for rank in (0, 1)
    ]
    for chunks in running:
        next(chunks)
    queued = [
        threads.submit(client.ask, tokens(80 + i, HALF), routed_dp_rank=i % 2) for i in range(4)
    ]
    until(client.waiting, lambda count: count == 4)
    assert scheduler.status().in_flight == 6
    client.abort(everything=True)
    assert [aborted(one)["type"] for one in queued] == 4 * ["abort"]
    assert [list(one)[-1]["meta_info"]["finish_reason"]["type"] for one in running] == 2 * ["abort"]
    assert scheduler.settled().placements == before.placements + 6


@pytest.mark.parametrize("length", [5000, 9000])
def test_a_prompt_that_is_too_long_is_refused_by_sglang(
    client: SglangClient, scheduler: Scheduler, length: int
) -> None:
    """One that a rank's cache could not hold by the rank, one that the model could
    not read before it is placed."""
    before = scheduler.settled()
    refused = client.ask(tokens(90, length))
    assert (refused.status_code, str(length) in refused.json()["error"]["message"]) == (400, True)
    assert Audit(before, scheduler.settled()).requests == 0
