"""Our numbers in vLLM's own /metrics."""

from __future__ import annotations

import pytest

from preble_plugin.bench.vllm_server import VllmServer
from tests.engines import serving
from tests.engines.client import Client, cached_tokens
from tests.engines.preble import Scheduler
from tests.engines.same import gauges_show_the_scheduler, grown
from tests.vllm.preble_servers import ONE, TWO, vllm_requests

pytestmark = pytest.mark.vllm


@serving(TWO, ONE)
def test_the_counters_add_up_over_the_front_ends(server: VllmServer) -> None:
    client, scheduler = Client(server), Scheduler()
    scheduler.settled()
    before = server.metrics()
    bodies = [{**body, "n": 1} for body in vllm_requests(seed=9, count=40)]
    cached = [cached_tokens(client.complete(**body)) for body in bodies]
    scheduler.settled()
    after = server.metrics()
    assert grown(before, after, "preble:placements_total") == 40
    assert grown(before, after, "preble:placement_seconds_count") == 40
    assert 0 < grown(before, after, "preble:placement_seconds_sum") < 40 * 0.05
    assert grown(before, after, "preble:actual_cached_tokens_total") == sum(cached)
    prompts = sum(len(body["prompt"]) for body in bodies)
    assert grown(before, after, "preble:prompt_tokens_total") == prompts
    assert grown(before, after, "preble:fallbacks_total") == 0


@serving(TWO, ONE)
def test_the_gauges_show_the_scheduler(server: VllmServer) -> None:
    metrics = gauges_show_the_scheduler(server)
    assert set(metrics.by("replica", "preble:queued_prefill_seconds")) == {"0", "1"}


@serving(TWO, ONE)
def test_placements_are_counted_by_replica_and_branch(server: VllmServer) -> None:
    Client(server).complete([5, 6, 7], {"X-data-parallel-rank": "1"})
    found = server.metrics()
    assert found.total("preble:placements_total", replica="1", branch="fixed") >= 1
    branches = set(found.by("branch", "preble:placements_total"))
    assert branches <= {"exploit", "explore", "replicate", "rebalance", "fixed"}
