"""Requests meet the cache that holds their prefix, and the predictions are right."""

from __future__ import annotations

import math
from typing import Any

import pytest

from preble_plugin.bench.sglang_server import SglangServer
from tests.engines import serving
from tests.engines.client import in_parallel, tokens
from tests.engines.preble import Audit, Scheduler, until
from tests.engines.same import conversation
from tests.sglang.preble_servers import (
    PAGES_OF_1,
    PAGES_OF_64,
    TWO,
    SglangClient,
    one_by_one,
    sglang_requests,
    told,
)

pytestmark = pytest.mark.sglang
ALL = serving(TWO, PAGES_OF_1, PAGES_OF_64)


@pytest.fixture
def client(server: SglangServer) -> SglangClient:
    return SglangClient(server)


@pytest.fixture
def scheduler(server: SglangServer) -> Scheduler:
    return Scheduler()


@pytest.fixture
def page(scheduler: Scheduler) -> int:
    """Tokens of a page on this server."""
    return scheduler.status().block_size


@ALL
def test_shared_prefixes_meet_on_one_rank(
    client: SglangClient, scheduler: Scheduler, page: int
) -> None:
    document = tokens(1, 1000)
    ids = [client.complete(document + tokens(2 + i, 20))["id"] for i in range(6)]
    found = [scheduler.receipt(one) for one in ids]
    assert len({one.replica for one in found}) == 1
    whole_pages = len(document) // page * page
    assert [one.actual_cached_tokens for one in found] == [0] + 5 * [whole_pages]


@ALL
def test_documents_are_spread_over_the_ranks(client: SglangClient, scheduler: Scheduler) -> None:
    """Between ranks that cost the same it is a hash that decides: of sixteen documents
    not all go one way."""
    ids = [client.complete(tokens(30 + i, 200))["id"] for i in range(16)]
    assert {scheduler.receipt(one).replica for one in ids} == {0, 1}


@ALL
def test_predictions_equal_the_engines_own_numbers(
    client: SglangClient, scheduler: Scheduler
) -> None:
    """One at a time, with a cache so small that eviction is constant."""
    before = scheduler.settled()
    said = one_by_one(client, scheduler, sglang_requests(seed=7, count=200))
    audit = Audit(before, scheduler.settled())
    print(audit)
    assert audit.requests >= 200
    assert audit.exact == audit.requests, audit
    assert audit.actual >= said > 30_000


@ALL
def test_predictions_hold_under_parallel_streams(
    client: SglangClient, scheduler: Scheduler
) -> None:
    """What requests of one batch share SGLang computes for each of them, while all but
    the first are predicted to find it: so the documents are known before."""
    requests = sglang_requests(seed=8, count=216, longest=700)
    one_by_one(client, scheduler, requests[:24])
    before = scheduler.settled()

    def stream(index: int) -> None:
        for request in requests[24 + index :: 16]:
            client.generate(**request)

    in_parallel(16, stream)
    audit = Audit(before, scheduler.settled())
    print(audit)
    assert audit.requests >= 192
    assert math.isclose(audit.predicted, audit.actual, rel_tol=0.05), audit


@serving(TWO)
def test_fifty_parallel_streams_are_answered_in_full(
    client: SglangClient, scheduler: Scheduler
) -> None:
    def stream(index: int) -> int:
        *_, last = client.generated(tokens(index, 40 + index), max_new_tokens=20)
        return len(last["output_ids"])

    assert in_parallel(50, stream) == 50 * [20]
    assert scheduler.settled().in_flight == 0


@serving(TWO)
def test_a_stream_is_placed_like_a_whole_answer(client: SglangClient, scheduler: Scheduler) -> None:
    prompt = tokens(10, 200)
    whole = client.generate(prompt, max_new_tokens=8)
    *_, last = client.generated(prompt, max_new_tokens=8)
    assert last["output_ids"] == whole["output_ids"]
    assert told(scheduler.receipt(last["meta_info"]["id"])) == (192, 192)


@serving(TWO, PAGES_OF_1)
def test_each_of_several_samples_is_placed(
    client: SglangClient, scheduler: Scheduler, page: int
) -> None:
    """SGLang computes the prompt first, and then asks for the samples."""
    before = scheduler.settled()
    answers = client.generate(tokens(11, 300), n=4, temperature=1.0, max_new_tokens=8)
    found = [scheduler.receipt(one["meta_info"]["id"]) for one in answers]
    assert scheduler.settled().placements == before.placements + 5
    cached = 299 // page * page
    assert [told(one) for one in found] == 4 * [(cached, cached)]
    assert len({one.replica for one in found}) == 1


@serving(TWO)
def test_each_prompt_of_a_batch_is_placed(client: SglangClient, scheduler: Scheduler) -> None:
    documents = [tokens(40 + i, 320) for i in range(3)]
    client.generate(documents)
    answers = client.generate([one + tokens(50, 10) for one in documents])
    found = [scheduler.receipt(one["meta_info"]["id"]) for one in answers]
    assert [told(one) for one in found] == 3 * [(320, 320)]
    assert [one.replica for one in found] == [one["meta_info"]["dp_rank"] for one in answers]


@serving(TWO)
def test_a_text_meets_its_own_tokens(client: SglangClient, scheduler: Scheduler) -> None:
    text = "Stan re " * 60
    ids = client.post("/tokenize", {"prompt": text}).json()["tokens"]
    client.generate(ids)
    receipt = scheduler.receipt(client.generate(text)["meta_info"]["id"])
    cached = (len(ids) - 1) // 16 * 16
    assert told(receipt) == (cached, cached) > (0, 0)


@serving(TWO)
def test_a_conversation_stays_where_it_began(client: SglangClient, scheduler: Scheduler) -> None:
    conversation(client, scheduler)


@serving(TWO)
@pytest.mark.parametrize(("start", "cached"), [(-1, 480), (200, 192), (0, 0)])
def test_tokens_whose_log_probability_is_asked_for_are_read_from_no_cache(
    client: SglangClient, scheduler: Scheduler, start: int, cached: int
) -> None:
    prompt = tokens(17, 490)
    client.generate(prompt)
    scheduler.settled()
    answer = client.generate(prompt, return_logprob=True, logprob_start_len=start)
    receipt = scheduler.receipt(answer["meta_info"]["id"])
    assert told(receipt) == (cached, cached)


@ALL
def test_a_prompt_shorter_than_a_page_finds_nothing(
    client: SglangClient, scheduler: Scheduler, page: int
) -> None:
    prompt = tokens(18, max(page - 1, 1))
    client.generate(prompt, max_new_tokens=1)
    scheduler.settled()
    answer = client.generate(prompt, max_new_tokens=1)
    assert told(scheduler.receipt(answer["meta_info"]["id"])) == (0, 0)


@ALL
def test_of_a_prompt_that_is_all_cached_the_last_page_is_computed(
    client: SglangClient, scheduler: Scheduler, page: int
) -> None:
    prompt = tokens(19, 4 * page)
    client.generate(prompt, max_new_tokens=page + 1)
    scheduler.settled()
    answer = client.generate(prompt)
    cached = (4 * page - 1) // page * page
    assert told(scheduler.receipt(answer["meta_info"]["id"])) == (cached, cached)


@serving(TWO)
def test_an_emptied_cache_is_noticed(client: SglangClient, scheduler: Scheduler) -> None:
    prompt = tokens(20, 640)
    client.generate(prompt)
    assert client.generate(prompt)["meta_info"]["cached_tokens"] == 624
    scheduler.settled()
    client.flush_cache()
    until(scheduler.status, lambda now: all(one.resident_blocks == 0 for one in now.replicas))
    receipt = scheduler.receipt(client.generate(prompt)["meta_info"]["id"])
    assert told(receipt) == (0, 0)


@serving(TWO)
def test_structured_output_and_stop_strings_work(
    client: SglangClient, scheduler: Scheduler
) -> None:
    schema = '{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}'
    prompt = tokens(21, 100)
    answers: list[dict[str, Any]] = [
        client.generate(prompt, json_schema=schema, max_new_tokens=30, ignore_eos=False),
        client.generate(prompt, max_new_tokens=20),
    ]
    answers.append(client.generate(prompt, max_new_tokens=99, stop=[answers[1]["text"][5:15]]))
    assert answers[2]["meta_info"]["finish_reason"]["type"] == "stop"
    found = [scheduler.receipt(one["meta_info"]["id"]) for one in answers]
    assert [(one.finish, told(one)) for one in found] == [
        ("finished", (0, 0)),
        ("finished", (96, 96)),
        ("finished", (96, 96)),
    ]
