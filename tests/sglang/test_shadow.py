"""Shadow mode on a real SGLang: its round robin sends, preble says what it would have done."""

from __future__ import annotations

import json
from typing import Any

import psutil
import pytest

from preble_plugin.bench.sglang_server import SglangServer
from preble_plugin.cli.main import main
from preble_plugin.sim.sharing import table_row
from preble_plugin.sim.trace import read_trace
from tests.engines import serving
from tests.engines.client import tokens
from tests.engines.preble import RUN_DIR, RUN_ENVIRONMENT, Scheduler, until
from tests.run.launched import RunOfSglang
from tests.sglang.preble_servers import PAGE, SglangClient

pytestmark = pytest.mark.sglang
RECORD = RUN_DIR / "sglang-shadow.jsonl"
SHADOW = RunOfSglang(
    flags=(
        *("--page-size", str(PAGE), "--dp-scheduler-config"),
        json.dumps({"shadow": True, "record": str(RECORD)}),
    ),
    environment=RUN_ENVIRONMENT,
)
WHOLE = 1000 // PAGE * PAGE


@pytest.fixture
def client(server: SglangServer) -> SglangClient:
    return SglangClient(server)


@pytest.fixture
def scheduler(server: SglangServer) -> Scheduler:
    return Scheduler()


def asked(
    client: SglangClient, scheduler: Scheduler, prompt: list[int], **more: Any
) -> dict[str, Any]:
    """What SGLang says of an answer, once it has settled."""
    said: dict[str, Any] = client.generate(prompt, **more)["meta_info"]
    scheduler.settled()
    return said


@serving(SHADOW)
def test_preble_run_has_become_the_engine(server: SglangServer) -> None:
    assert "preble run: " in server.log_text()
    words = psutil.Process(server.pid).cmdline()
    assert not [word for word in words if word.endswith("/preble")]


@serving(SHADOW)
def test_a_rank_that_the_user_fixed_is_obeyed(client: SglangClient, scheduler: Scheduler) -> None:
    for rank in (1, 1, 0):
        said = asked(client, scheduler, tokens(1, 300), routed_dp_rank=rank)
        receipt = scheduler.receipt(said["id"])
        assert (said["dp_rank"], receipt.replica, receipt.branch) == (rank, rank, "fixed")
        assert receipt.would_be is None


@serving(SHADOW)
def test_requests_go_in_turn_and_receipts_say_what_would_have_been(
    client: SglangClient, scheduler: Scheduler
) -> None:
    document = tokens(2, 1000)
    asked(client, scheduler, document, routed_dp_rank=1)
    before = scheduler.settled().shadow
    said = [asked(client, scheduler, document + tokens(20 + i, 20)) for i in range(2)]
    after = scheduler.settled().shadow
    ranks = [one["dp_rank"] for one in said]
    assert ranks in ([0, 1], [1, 0])
    found = [scheduler.receipt(one["id"]) for one in said]
    assert [(one.replica, one.branch) for one in found] == [(rank, "engine") for rank in ranks]
    strayed = found[ranks.index(0)]
    assert (strayed.predicted_cached_tokens, strayed.actual_cached_tokens) == (0, 0)
    assert strayed.would_be is not None
    there = (strayed.would_be.replica, strayed.would_be.predicted_cached_tokens)
    assert there == (1, WHOLE)
    assert before is not None
    assert after is not None
    assert after.requests == before.requests + 2
    assert after.would_be_cached_tokens == before.would_be_cached_tokens + 2 * WHOLE
    assert after.cached_tokens == before.cached_tokens + WHOLE


@serving(SHADOW)
def test_predictions_stay_right_where_requests_went(
    client: SglangClient, scheduler: Scheduler
) -> None:
    document = tokens(3, 1000)
    said = [asked(client, scheduler, document + tokens(30 + i, 20)) for i in range(6)]
    assert [one["cached_tokens"] for one in said] == [0, 0] + 4 * [WHOLE]
    found = [scheduler.receipt(one["id"]) for one in said]
    assert [one.predicted_cached_tokens for one in found] == [0, 0] + 4 * [WHOLE]


@serving(SHADOW)
def test_the_record_can_be_simulated(
    client: SglangClient, scheduler: Scheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tokens(4, 1000)
    said = [asked(client, scheduler, document + tokens(40 + i, 20)) for i in range(4)]
    status = scheduler.settled()
    until(
        lambda: scheduler.status().recording,
        lambda now: now is not None and now.written == status.placements,
    )
    last = read_trace(RECORD)[-4:]
    assert [one.request_id.partition("@")[0] for one in last] == [one["id"] for one in said]
    assert [(one.prompt_tokens, one.output_tokens) for one in last] == 4 * [(1020, 3)]
    assert table_row(last).shared == pytest.approx(3 / 4 * WHOLE / 1020)
    lines = [json.loads(text) for text in RECORD.read_bytes().splitlines()[-4:]]
    assert [(one["replica"], one["cached_tokens"]) for one in lines] == [
        (one["dp_rank"], one["cached_tokens"]) for one in said
    ]
    assert main(["simulate", "--trace", str(RECORD), "--replicas", "2"]) == 0
    assert "round-robin" in capsys.readouterr().out
