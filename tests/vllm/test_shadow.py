"""Shadow mode on a real vLLM: vLLM dispatches, preble says what it would have done."""

from __future__ import annotations

import json
from collections import Counter

import psutil
import pytest

from preble_plugin.bench.vllm_server import VllmServer
from preble_plugin.cli.main import main
from preble_plugin.core.receipts import Receipt
from preble_plugin.sim.sharing import table_row
from preble_plugin.sim.trace import read_trace
from tests.engines import serving
from tests.engines.client import Client, in_parallel, tokens
from tests.engines.preble import RUN_DIR, RUN_ENVIRONMENT, Scheduler, until
from tests.run.launched import Run
from tests.vllm.preble_servers import BLOCK

pytestmark = pytest.mark.vllm
RECORD = RUN_DIR / "vllm-shadow.jsonl"
SHADOW = Run(
    flags=("--dp-scheduler-config", json.dumps({"shadow": True, "record": str(RECORD)})),
    environment=RUN_ENVIRONMENT,
)
"""Two API servers and a scheduler process, which records; `preble run` became the parent."""
HOME = {"X-data-parallel-rank": "1"}


@pytest.fixture
def client(server: VllmServer) -> Client:
    return Client(server)


@pytest.fixture
def scheduler(server: VllmServer) -> Scheduler:
    return Scheduler()


def asked(client: Client, scheduler: Scheduler, prompt: list[int], **headers: str) -> Receipt:
    receipt = scheduler.receipt(client.complete(prompt, headers)["id"])
    scheduler.settled()
    return receipt


@serving(SHADOW)
def test_preble_run_has_become_the_engine(server: VllmServer) -> None:
    assert "preble run: " in server.log_text()
    words = psutil.Process(server.pid).cmdline()
    assert not [word for word in words if word.endswith("/preble")]


@serving(SHADOW)
def test_a_rank_that_the_user_fixed_is_obeyed(client: Client, scheduler: Scheduler) -> None:
    receipt = asked(client, scheduler, tokens(1, 300), **HOME)
    assert (receipt.replica, receipt.branch, receipt.would_be) == (1, "fixed", None)


@serving(SHADOW)
def test_a_receipt_says_what_was_done_and_what_would_have_been(
    client: Client, scheduler: Scheduler
) -> None:
    """Each document is on one rank. vLLM takes the ranks in turn, or the same one while
    it takes them to be idle: four questions cannot all go where their document is."""
    documents = [tokens(2 + rank, 1000) for rank in (0, 1)]
    for rank, document in enumerate(documents):
        asked(client, scheduler, document, **{"X-data-parallel-rank": str(rank)})
    before = scheduler.settled().shadow
    found = [
        (home, asked(client, scheduler, documents[home] + tokens(20 + number, 20)))
        for number, home in enumerate((0, 0, 1, 1))
    ]
    assert {receipt.branch for _, receipt in found} == {"engine"}
    home, strayed = next((home, one) for home, one in found if one.replica != home)
    assert (strayed.predicted_cached_tokens, strayed.actual_cached_tokens) == (0, 0)
    assert strayed.would_be is not None
    there = (strayed.would_be.replica, strayed.would_be.predicted_cached_tokens)
    assert there == (home, 1000 // BLOCK * BLOCK)
    after = scheduler.settled().shadow
    assert before is not None
    assert after is not None
    assert (after.requests - before.requests, after.elsewhere > before.elsewhere) == (4, True)
    assert after.would_be_cached_tokens > after.cached_tokens


@serving(SHADOW)
def test_requests_go_where_vllm_sends_them(
    server: VllmServer, client: Client, scheduler: Scheduler
) -> None:
    """Equal prompts at once, which preble would keep together, are spread; and the
    engines say that they had what the receipts say."""
    document = tokens(4, 1000)
    asked(client, scheduler, document, **HOME)

    def computed() -> Counter[str]:
        return Counter(server.metrics().by("engine", "vllm:prompt_tokens_total"))

    before = computed()
    ids = in_parallel(8, lambda i: client.complete(document + tokens(30 + i, 20))["id"])
    found = [scheduler.receipt(one) for one in ids]
    assert {one.replica for one in found} == {0, 1}
    went: Counter[str] = Counter()
    for one in found:
        went[str(one.replica)] += one.prompt_tokens
    until(lambda: computed() - before, lambda grown: grown == went)


@serving(SHADOW)
def test_the_metrics_say_that_it_is_shadow(
    server: VllmServer, client: Client, scheduler: Scheduler
) -> None:
    before = server.metrics().total("preble:placements_total")
    asked(client, scheduler, tokens(5, 300))
    shadow = scheduler.settled().shadow
    assert shadow is not None
    found = until(
        server.metrics, lambda now: now.total("preble:shadow_requests") == shadow.requests
    )
    assert found.total("preble:shadow") == 1
    cached = found.by("dispatch", "preble:shadow_cached_tokens")
    assert cached == {"engine": shadow.cached_tokens, "preble": shadow.would_be_cached_tokens}
    assert found.total("preble:placements_total") == before
    assert found.total("preble:fallbacks_total") == 0


@serving(SHADOW)
def test_the_record_can_be_simulated(
    client: Client, scheduler: Scheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tokens(6, 1000)
    receipts = [asked(client, scheduler, document + tokens(40 + i, 20)) for i in range(4)]
    status = scheduler.settled()
    until(
        lambda: scheduler.status().recording,
        lambda now: now is not None and now.written == status.placements,
    )
    trace = read_trace(RECORD)
    assert len(trace) == status.placements
    last = trace[-4:]
    assert [one.request_id.partition("@")[0] for one in last] == [
        one.request_id for one in receipts
    ]
    assert [(one.prompt_tokens, one.output_tokens) for one in last] == 4 * [(1020, 3)]
    whole = 1000 // BLOCK * BLOCK
    assert table_row(last).shared == pytest.approx(3 / 4 * whole / 1020)
    assert RECORD.stat().st_mode & 0o777 == 0o600
    assert main(["simulate", "--trace", str(RECORD), "--replicas", "2"]) == 0
    assert "round-robin" in capsys.readouterr().out
