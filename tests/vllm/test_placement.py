"""Requests meet the cache that holds their prefix, and the books stay right."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest

from preble_plugin.bench.vllm_server import VllmServer
from tests.engines import serving
from tests.engines.client import Client, cached_tokens, in_parallel, tokens
from tests.engines.preble import Audit, Scheduler, until
from tests.engines.same import conversation
from tests.vllm.preble_servers import BLOCK, ONE, TWO, vllm_requests

pytestmark = pytest.mark.vllm
BOTH = serving(TWO, ONE)


@pytest.fixture
def client(server: VllmServer) -> Client:
    return Client(server)


@pytest.fixture
def scheduler(server: VllmServer) -> Scheduler:
    return Scheduler()


@BOTH
def test_shared_prefixes_meet_on_one_rank(client: Client, scheduler: Scheduler) -> None:
    document = tokens(1, 1000)
    ids = [client.complete(document + tokens(2 + i, 20))["id"] for i in range(6)]
    found = [scheduler.receipt(one) for one in ids]
    assert len({one.replica for one in found}) == 1
    whole_blocks = len(document) // BLOCK * BLOCK
    assert [one.actual_cached_tokens for one in found] == [0] + 5 * [whole_blocks]


@BOTH
def test_predictions_equal_the_engines_own_numbers(client: Client, scheduler: Scheduler) -> None:
    """One at a time, with a cache so small that eviction is constant."""
    before = scheduler.settled()
    said = 0
    for body in vllm_requests(seed=7, count=500):
        said += cached_tokens(client.complete(**body))
        scheduler.settled()
    audit = Audit(before, scheduler.settled())
    print(audit)
    assert audit.requests >= 500
    assert audit.exact >= 0.99 * audit.requests, audit
    assert audit.actual >= said > 100_000


@BOTH
def test_predictions_hold_under_parallel_streams(client: Client, scheduler: Scheduler) -> None:
    requests = vllm_requests(seed=8, count=192)
    before = scheduler.settled()

    def stream(index: int) -> None:
        for body in requests[index::16]:
            client.complete(**body)

    in_parallel(16, stream)
    audit = Audit(before, scheduler.settled())
    print(audit)
    assert audit.requests >= 192
    assert math.isclose(audit.predicted, audit.actual, rel_tol=0.05), audit


@BOTH
def test_fifty_parallel_streams_are_answered_in_full(client: Client, scheduler: Scheduler) -> None:
    def stream(index: int) -> int:
        *_, last = client.stream(
            tokens(index, 40 + index),
            max_tokens=20,
            ignore_eos=True,
            stream_options={"include_usage": True},
        )
        said: int = last["usage"]["completion_tokens"]
        return said

    assert in_parallel(50, stream) == 50 * [20]
    assert scheduler.settled().in_flight == 0


@BOTH
def test_each_of_several_samples_is_placed(client: Client, scheduler: Scheduler) -> None:
    prompt = tokens(11, 300)
    client.complete(prompt)
    answer = client.complete(prompt, n=4, temperature=1.0)
    assert [one["index"] for one in answer["choices"]] == [0, 1, 2, 3]
    scheduler.settled()
    receipts = scheduler.receipts(answer["id"])
    assert len(receipts) == 4
    assert {(one.replica, one.actual_cached_tokens) for one in receipts} == {
        (receipts[0].replica, 288)
    }


@BOTH
def test_tenants_do_not_share_a_cache(client: Client, scheduler: Scheduler) -> None:
    prompt = tokens(12, 640)
    answers = [client.complete(prompt, cache_salt=salt) for salt in ("a", "b", "a", "b")]
    assert [cached_tokens(one) for one in answers] == [0, 0, 608, 608]
    found = [scheduler.receipt(one["id"]) for one in answers]
    assert [one.predicted_cached_tokens for one in found] == [0, 0, 608, 608]


@BOTH
def test_a_client_that_hangs_up_is_released(client: Client, scheduler: Scheduler) -> None:
    before = scheduler.settled()
    chunks = client.stream(tokens(13, 100), max_tokens=5000, ignore_eos=True)
    first = next(chunks)
    assert scheduler.status().in_flight == 1
    chunks.close()  # type: ignore[attr-defined]
    scheduler.settled()
    receipt = scheduler.receipt(first["id"])
    assert (receipt.finish, receipt.output_tokens > 0) == ("aborted", True)
    assert [one.running for one in scheduler.status().replicas] == [0, 0]
    assert scheduler.status().placements == before.placements + 1


@BOTH
def test_requests_that_hang_up_before_they_are_answered_are_released(
    client: Client, scheduler: Scheduler
) -> None:
    """Some are aborted while they are placed, some queued, some running."""

    def hang_up(index: int) -> None:
        import httpx

        body = {"prompt": tokens(100 + index, 900), "max_tokens": 50, "ignore_eos": True}
        with contextlib.suppress(httpx.TimeoutException):
            client.http.post(
                "/v1/completions",
                json={"model": "tiny", **body},
                timeout=0.01 * (1 + index % 20),
            )

    in_parallel(40, hang_up)
    assert scheduler.settled().in_flight == 0
    assert client.complete(tokens(14, 50))["choices"]


@BOTH
def test_a_rank_that_the_user_fixed_is_obeyed_and_accounted(
    client: Client, scheduler: Scheduler
) -> None:
    for rank in (0, 1):
        before = scheduler.replica(rank)
        answer = client.complete(tokens(15 + rank, 200), {"X-data-parallel-rank": str(rank)})
        receipt = scheduler.receipt(answer["id"])
        assert (receipt.replica, receipt.branch) == (rank, "fixed")
        assert scheduler.replica(rank).placements == before.placements + 1


@BOTH
def test_a_request_that_skips_the_cache_is_predicted_to_hit_nothing(
    client: Client, scheduler: Scheduler
) -> None:
    prompt = tokens(17, 500)
    client.complete(prompt)
    answer = client.complete(prompt, prompt_logprobs=0)
    receipt = scheduler.receipt(answer["id"])
    assert (receipt.predicted_cached_tokens, receipt.actual_cached_tokens) == (0, 0)
    assert len(answer["choices"][0]["prompt_logprobs"]) == 500


@BOTH
def test_a_stop_string_ends_a_request_like_any_end(client: Client, scheduler: Scheduler) -> None:
    prompt = tokens(18, 100)
    said = client.complete(prompt, max_tokens=20)["choices"][0]["text"]
    answer = client.complete(prompt, max_tokens=200, stop=[said[5:15]])
    assert answer["choices"][0]["finish_reason"] == "stop"
    receipt = scheduler.receipt(answer["id"])
    assert receipt.finish == "finished"


@BOTH
def test_an_emptied_cache_is_noticed(client: Client, scheduler: Scheduler) -> None:
    prompt = tokens(19, 640)
    client.complete(prompt)
    assert cached_tokens(client.complete(prompt)) == 608
    assert client.post("/reset_prefix_cache", {}).status_code == 200
    # The engine tells of it with its next step.
    for rank in (0, 1):
        client.complete(tokens(20, 10), {"X-data-parallel-rank": str(rank)})
    scheduler.settled()
    until(scheduler.status, lambda found: all(one.resident_blocks == 0 for one in found.replicas))
    answer = client.complete(prompt)
    receipt = scheduler.receipt(answer["id"])
    assert (receipt.predicted_cached_tokens, receipt.actual_cached_tokens) == (0, 0)


@BOTH
def test_sleep_and_wake_are_vllms_own(client: Client, scheduler: Scheduler) -> None:
    assert client.post("/sleep?level=1", {}).status_code == 200
    assert client.get("/is_sleeping").json() == {"is_sleeping": True}
    assert client.post("/wake_up", {}).status_code == 200
    assert len(client.complete(tokens(21, 100))["choices"]) == 1
    assert scheduler.settled().in_flight == 0


@BOTH
def test_a_pause_that_aborts_leaves_nothing_behind(client: Client, scheduler: Scheduler) -> None:
    chunks = client.stream(tokens(22, 100), max_tokens=5000, ignore_eos=True)
    first = next(chunks)
    assert client.post("/pause?mode=abort", {}).status_code == 200
    *_, last = chunks
    assert last["choices"][0]["finish_reason"] == "abort"
    assert client.post("/resume", {}).status_code == 200
    assert scheduler.receipt(first["id"]).finish == "aborted"
    assert scheduler.settled().in_flight == 0
    assert client.complete(tokens(23, 50))["choices"]


@BOTH
def test_beam_search_and_structured_output_work(client: Client, scheduler: Scheduler) -> None:
    beams = client.complete("Stan re", n=2, use_beam_search=True, max_tokens=4)
    assert len(beams["choices"]) == 2
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Stan re"}],
        "max_tokens": 60,
        "temperature": 0,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "ok", "schema": schema},
        },
    }
    answer = client.post("/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text
    assert scheduler.receipt(answer.json()["id"]).finish == "finished"
    assert scheduler.settled().in_flight == 0


@BOTH
def test_a_conversation_stays_where_it_began(client: Client, scheduler: Scheduler) -> None:
    conversation(client, scheduler)
