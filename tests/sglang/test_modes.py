"""SGLang's other modes: what they send is placed, accounted for, and let go."""

from __future__ import annotations

from typing import Any

import pytest

from preble_plugin.bench.sglang_server import SglangServer
from preble_plugin.core.receipts import Receipt
from tests.engines import serving
from tests.engines.client import cached_tokens, in_parallel, tokens
from tests.engines.preble import Audit, Scheduler, until
from tests.sglang.mode_servers import DP_ATTENTION, EMBEDDINGS, HICACHE, STORAGE, TOKENIZERS
from tests.sglang.preble_servers import TWO, SglangClient, one_by_one, sglang_requests, told

pytestmark = pytest.mark.sglang


def lockstep(test: Any) -> Any:
    """Ranks of DP attention. Once in some dozens of servers on a busy machine of two cores
    both of SGLang's ranks stood still in a step's exchange, for minutes, with nothing of
    ours in their way; so such a test may have a second try, on a server of its own."""
    return pytest.mark.flaky(reruns=1)(serving(DP_ATTENTION)(test))


@pytest.fixture
def client(server: SglangServer) -> SglangClient:
    return SglangClient(server)


@pytest.fixture
def scheduler(server: SglangServer) -> Scheduler:
    return Scheduler()


# --- ranks that the user fixes ---


@serving(TWO)
def test_a_rank_in_the_body_or_the_header_is_obeyed(
    client: SglangClient, scheduler: Scheduler
) -> None:
    prompt = tokens(800, 100)
    asked = [
        client.complete(prompt, routed_dp_rank=1),
        client.complete(prompt, headers={"X-Data-Parallel-Rank": "0"}),
        client.complete(prompt, routed_dp_rank=1),
    ]
    found = [scheduler.receipt(one["id"]) for one in asked]
    assert [(one.branch, one.replica) for one in found] == [("fixed", r) for r in (1, 0, 1)]
    assert [cached_tokens(one) for one in asked] == [0, 0, 96]
    assert [one.predicted_cached_tokens for one in found] == [0, 0, 96]


@serving(TWO)
def test_a_rank_that_does_not_exist_is_sglangs_own_error(
    client: SglangClient, scheduler: Scheduler
) -> None:
    before = scheduler.settled()
    answer = client.ask(tokens(801, 30), routed_dp_rank=7)
    assert answer.status_code == 400
    assert "routed_dp_rank=7 out of range [0, 2)" in answer.text
    assert scheduler.settled().replicas[0].placements == before.replicas[0].placements


# --- sessions, health checks, priorities ---


@serving(TWO)
def test_a_session_stays_on_its_rank_and_is_not_audited(
    client: SglangClient, scheduler: Scheduler
) -> None:
    before = scheduler.settled()
    sessions = [client.http.post("/open_session", json={"capacity_of_str_len": 10_000}).json()]
    sessions += [client.http.post("/open_session", json={"capacity_of_str_len": 10_000}).json()]
    for session in sessions:
        cached, ids = [], [None]
        for turn in range(3):
            name = f"{session}-{turn}"
            given: Any = {"id": session, "rid": ids[-1]}
            answer = client.generate(tokens(810 + turn, 100), rid=name, session_params=given)
            ids.append(answer["meta_info"]["id"])
            cached.append(answer["meta_info"]["cached_tokens"])
        found = [scheduler.receipt(f"{session}-{turn}") for turn in range(3)]
        assert len({one.replica for one in found}) == 1
        assert cached[1] >= 96
        assert cached[2] > cached[1]
        assert client.http.post("/close_session", json={"session_id": session}).status_code == 200
    assert Audit(before, scheduler.settled()).requests == 0


@serving(TWO)
def test_a_request_for_a_closed_session_is_let_go(
    client: SglangClient, scheduler: Scheduler
) -> None:
    answer = client.ask(tokens(820, 50), session_params={"id": "no-such", "rid": None})
    assert (answer.status_code, "does not exist" in answer.text) == (400, True)
    assert scheduler.settled().in_flight == 0


@serving(TWO)
def test_health_checks_are_no_placements(client: SglangClient, scheduler: Scheduler) -> None:
    before = [one.placements for one in scheduler.settled().replicas]
    assert client.get("/health_generate").status_code == 200
    assert [one.placements for one in scheduler.settled().replicas] == before


# --- several tokenizers, by the example of the manual ---


@serving(TOKENIZERS)
def test_prefixes_meet_whichever_tokenizer_they_come_through(
    server: SglangServer, scheduler: Scheduler
) -> None:
    """A client is a connection, and so a tokenizer."""
    document = tokens(830, 640)

    def ask(number: int) -> str:
        answer: str = SglangClient(server).complete(document + tokens(831 + number, 9))["id"]
        return answer

    first = scheduler.receipt(ask(0))
    found = [scheduler.receipt(one) for one in in_parallel(8, lambda number: ask(number + 1))]
    meeting = [one for one in found if one.replica == first.replica]
    assert len(meeting) >= 4, found
    assert {told(one) for one in meeting} == {(640, 640)}
    # All that is asked is this one prefix: the other rank may be given it, too.
    elsewhere = [one.branch for one in found if one.replica != first.replica]
    assert "explore" not in elsewhere


@serving(TOKENIZERS)
def test_a_disconnect_is_an_end_with_several_tokenizers(
    server: SglangServer, scheduler: Scheduler
) -> None:
    client = SglangClient(server)
    streams = [client.stream(tokens(840 + i, 64), max_tokens=4000) for i in range(3)]
    for stream in streams:
        next(stream)
    until(scheduler.status, lambda status: status.in_flight == 3)
    for stream in streams:
        stream.close()
    assert scheduler.settled().in_flight == 0


@serving(TOKENIZERS)
def test_an_abort_reaches_requests_of_all_tokenizers(
    server: SglangServer, scheduler: Scheduler
) -> None:
    streams = [
        SglangClient(server).generated(tokens(850 + i, 64), max_new_tokens=4000, rid=f"long-{i}")
        for i in range(4)
    ]
    for stream in streams:
        next(stream)
    until(scheduler.status, lambda status: status.in_flight == 4)
    SglangClient(server).abort(everything=True)
    assert scheduler.settled().in_flight == 0
    for stream in streams:
        stream.close()


@serving(TOKENIZERS)
def test_a_batch_is_placed_request_by_request(client: SglangClient, scheduler: Scheduler) -> None:
    before = scheduler.settled()
    answers = client.generate([tokens(860 + i, 40) for i in range(6)])
    after = scheduler.settled()
    assert len(answers) == 6
    assert Audit(before, after).requests == 6
    assert all(
        new.placements > old.placements
        for old, new in zip(before.replicas, after.replicas, strict=True)
    )


@serving(TOKENIZERS)
def test_a_priority_goes_along(client: SglangClient, scheduler: Scheduler) -> None:
    answer = client.generate(tokens(870, 40), rid="first-of-all", priority=7)
    assert answer["meta_info"]["completion_tokens"] == 3
    assert scheduler.receipt("first-of-all").finish == "finished"


# --- embeddings ---


@serving(EMBEDDINGS)
def test_embeddings_of_one_prefix_meet_on_one_rank_as_predicted(
    client: SglangClient, scheduler: Scheduler
) -> None:
    document = tokens(880, 320)
    before = scheduler.settled()
    for number in range(4):
        answer = client.post("/v1/embeddings", {"input": document + tokens(881 + number, 9)})
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["data"][0]["embedding"]) == 256
        scheduler.settled()
    after = scheduler.settled()
    audit = Audit(before, after)
    assert (audit.exact, audit.actual) == (4, 3 * 320)
    placed = [
        new.placements - old.placements
        for old, new in zip(before.replicas, after.replicas, strict=True)
    ]
    assert sorted(placed) == [0, 4]


@serving(EMBEDDINGS)
def test_batches_of_embeddings_are_answered_and_let_go(
    client: SglangClient, scheduler: Scheduler
) -> None:
    def embed(index: int) -> int:
        batch = [tokens(890 + index * 8 + number, 60) for number in range(8)]
        return len(client.post("/v1/embeddings", {"input": batch}).json()["data"])

    assert in_parallel(8, embed) == 8 * [8]
    assert scheduler.settled().in_flight == 0


@serving(EMBEDDINGS)
def test_texts_are_tokenized_in_batches_and_placed(
    client: SglangClient, scheduler: Scheduler
) -> None:
    before = scheduler.settled()
    texts = [f"{'the same beginning ' * 20} and {number}" for number in range(5)]
    answer = client.post("/v1/embeddings", {"input": texts})
    assert len(answer.json()["data"]) == 5
    assert Audit(before, scheduler.settled()).requests == 5


# --- DP attention ---


@lockstep
def test_predictions_equal_the_engines_own_numbers_with_dp_attention(
    client: SglangClient, scheduler: Scheduler
) -> None:
    # Few, as each takes seconds: an idle rank of SGLang's sleeps up to one between two steps.
    before = scheduler.settled()
    assert one_by_one(client, scheduler, sglang_requests(seed=11, count=24)) > 0
    audit = Audit(before, scheduler.settled())
    assert audit.exact == audit.requests >= 24, audit


@lockstep
def test_requests_meet_their_prefix_on_ranks_in_lockstep(
    client: SglangClient, scheduler: Scheduler
) -> None:
    documents = [tokens(910 + i, 400) for i in range(2)]
    for number, document in enumerate(documents):
        client.complete(document, routed_dp_rank=number)
        scheduler.settled()

    def ask(number: int) -> tuple[int, int]:
        document = documents[number % 2]
        answer = client.complete(document + tokens(920 + number, 9))
        return scheduler.receipt(answer["id"]).replica, cached_tokens(answer)

    assert in_parallel(8, ask) == 4 * [(0, 400), (1, 400)]


# --- HiCache ---


@serving(HICACHE)
def test_what_the_host_holds_costs_less_than_computing_it(
    client: SglangClient, scheduler: Scheduler
) -> None:
    """Rank 0 has room for three of five documents, its host for all of them."""
    client.flush_cache()
    documents = [tokens(930 + i, 640) for i in range(6)]
    for document in documents[:5]:
        client.generate(document, routed_dp_rank=0)
        scheduler.settled()

    def ask(number: int) -> tuple[tuple[int, int, int], float]:
        """Where SGLang found it, and the price of its prefill where it went."""
        answer = client.generate(documents[number], rid=f"host-{number}", routed_dp_rank=0)
        scheduler.settled()
        receipt = scheduler.receipt(f"host-{number}")
        assert receipt.predicted_cached_tokens == receipt.actual_cached_tokens
        return found(answer), prefill_price(receipt)

    on_device, device_price = ask(4)
    on_host, host_price = ask(0)
    nowhere, miss_price = ask(5)
    assert (on_device, on_host, nowhere) == ((624, 0, 0), (0, 624, 0), (0, 0, 0))
    assert device_price < host_price < miss_price


@serving(HICACHE)
def test_what_one_rank_computed_is_read_by_the_other_from_storage(
    client: SglangClient, scheduler: Scheduler
) -> None:
    """Rank 0's cache and host are emptied: its document is in files alone, which both
    ranks share."""
    client.flush_cache()
    document, files = tokens(960, 640), len(list(STORAGE.glob("*")))
    client.generate(document, routed_dp_rank=0)
    scheduler.settled()
    until(lambda: len(list(STORAGE.glob("*"))), lambda now: now >= files + 39)
    scheduler.settled()
    client.flush_cache()
    before = scheduler.settled()
    receipts = []
    for number in range(2):
        answer = client.generate(document, rid=f"stored-{number}", routed_dp_rank=1)
        scheduler.settled()
        receipts.append(scheduler.receipt(f"stored-{number}"))
        expected = (0, 0, 624) if not number else (624, 0, 0)
        assert found(answer) == expected
    stored, on_device = receipts
    assert stored.predicted_cached_tokens == stored.actual_cached_tokens == 624
    assert prefill_price(on_device) < prefill_price(stored)
    audit = Audit(before, scheduler.settled())
    assert audit.exact == audit.requests == 2


def found(answer: dict[str, Any]) -> tuple[int, int, int]:
    """Tokens that SGLang found on the device, on the host and in storage."""
    details = answer["meta_info"]["cached_tokens_details"] or {}
    return details.get("device", 0), details.get("host", 0), details.get("storage", 0)


def prefill_price(receipt: Receipt) -> float:
    (price,) = [one.prefill_seconds for one in receipt.candidates if one.replica == receipt.replica]
    assert price is not None
    return price


@serving(HICACHE)
def test_predictions_hold_while_pages_go_to_the_host_and_back(
    client: SglangClient, scheduler: Scheduler
) -> None:
    before = scheduler.settled()
    assert one_by_one(client, scheduler, sglang_requests(seed=13, count=60)) > 0
    audit = Audit(before, scheduler.settled())
    assert audit.exact == audit.requests >= 60, audit
