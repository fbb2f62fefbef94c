"""Embeddings are placed like prompts; the choice comes by the environment."""

from __future__ import annotations

import pytest

from preble_plugin.bench.vllm_server import VllmServer
from tests.engines import Serving, serving
from tests.engines.client import Client, in_parallel, tokens
from tests.engines.preble import RUN_DIR, Scheduler

POOLING = Serving(
    flags=("--runner", "pooling", "--convert", "embed"),
    environment=(
        ("PREBLE_RUN_DIR", str(RUN_DIR)),
        ("PREBLE_DP_SCHEDULER", "preble"),
        ("PREBLE_CONFIG", '{"receipts": 500}'),
    ),
)
pytestmark = [pytest.mark.vllm, serving(POOLING)]


def test_embeddings_of_one_prefix_meet_on_one_rank_as_predicted(server: VllmServer) -> None:
    client, scheduler = Client(server), Scheduler()
    document = tokens(800, 320)
    ids = []
    for number in range(4):
        answer = client.post("/v1/embeddings", {"input": document + tokens(801 + number, 9)})
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["data"][0]["embedding"]) == 256
        ids.append(answer.json()["id"])
        scheduler.settled()
    found = [scheduler.receipt(one) for one in ids]
    assert len({one.replica for one in found}) == 1
    actual = [one.actual_cached_tokens for one in found]
    assert actual == [one.predicted_cached_tokens for one in found] == [0, 320, 320, 320]


def test_a_batch_of_embeddings_is_answered_and_released(server: VllmServer) -> None:
    client = Client(server)

    def embed(index: int) -> int:
        batch = [tokens(810 + index * 8 + number, 60) for number in range(8)]
        return len(client.post("/v1/embeddings", {"input": batch}).json()["data"])

    assert in_parallel(8, embed) == 8 * [8]
    assert Scheduler().settled().in_flight == 0
