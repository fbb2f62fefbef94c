"""Our numbers in SGLang's own /metrics."""

from __future__ import annotations

import pytest

from preble_plugin.bench.sglang_server import SglangServer
from tests.engines import serving
from tests.engines.client import cached_tokens, mixed_requests
from tests.engines.preble import Scheduler
from tests.engines.same import gauges_show_the_scheduler, grown
from tests.sglang.preble_servers import TWO, SglangClient

pytestmark = [pytest.mark.sglang, serving(TWO)]
NAMES = {
    "preble:placements_total",
    "preble:predicted_cached_tokens_total",
    "preble:actual_cached_tokens_total",
    "preble:prompt_tokens_total",
    "preble:placement_seconds_sum",
    "preble:placement_seconds_count",
    "preble:placement_seconds_bucket",
    "preble:event_lag_seconds",
    "preble:event_gaps",
    "preble:resident_blocks",
    "preble:queued_prefill_seconds",
    "preble:stream_trust",
    "preble:shadow",
}
"""As in vLLM, but for `preble:fallbacks_total`: it shows once there was one."""


def test_the_counters_add_up_to_what_receipts_say(server: SglangServer) -> None:
    client, scheduler = SglangClient(server), Scheduler()
    scheduler.settled()
    before = server.metrics()
    bodies = [{**body, "n": 1} for body in mixed_requests(seed=9, count=40)]
    answers = [client.complete(**body) for body in bodies]
    found = [scheduler.receipt(one["id"]) for one in answers]
    after = server.metrics()
    assert grown(before, after, "preble:placements_total") == 40
    assert grown(before, after, "preble:placement_seconds_count") == 40
    assert 0 < grown(before, after, "preble:placement_seconds_sum") < 40 * 0.05
    cached = sum(map(cached_tokens, answers))
    assert grown(before, after, "preble:actual_cached_tokens_total") == cached > 0
    prompts = sum(len(body["prompt"]) for body in bodies)
    assert grown(before, after, "preble:prompt_tokens_total") == prompts
    assert grown(before, after, "preble:fallbacks_total") == 0
    for rank in (0, 1):
        of_rank = [one for one in found if one.replica == rank]
        labels = {"replica": str(rank)}
        assert grown(before, after, "preble:placements_total", **labels) == len(of_rank)
        predicted = sum(one.predicted_cached_tokens for one in of_rank)
        assert grown(before, after, "preble:predicted_cached_tokens_total", **labels) == predicted
        actual = sum(one.actual_cached_tokens or 0 for one in of_rank)
        assert grown(before, after, "preble:actual_cached_tokens_total", **labels) == actual


def test_the_gauges_show_the_scheduler(server: SglangServer) -> None:
    metrics = gauges_show_the_scheduler(server)
    assert metrics.by("replica", "preble:queued_prefill_seconds") == {"0": 0.0, "1": 0.0}


def test_placements_are_counted_by_replica_and_branch(server: SglangServer) -> None:
    SglangClient(server).generate([5, 6, 7], routed_dp_rank=1)
    found = server.metrics()
    assert found.total("preble:placements_total", replica="1", branch="fixed") >= 1
    branches = set(found.by("branch", "preble:placements_total"))
    assert branches <= {"exploit", "explore", "replicate", "rebalance", "fixed"}


def test_the_names_are_those_of_vllm(server: SglangServer) -> None:
    SglangClient(server).generate([5, 6, 7])
    samples = server.metrics().samples
    assert {one.name for one in samples if one.name.startswith("preble:")} == NAMES
