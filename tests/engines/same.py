"""What is true of a server alike, whichever its engine."""

from __future__ import annotations

from preble_plugin.bench.server import Metrics, Server
from tests.engines.client import Client
from tests.engines.preble import Scheduler, until


def grown(before: Metrics, after: Metrics, name: str, **labels: str) -> float:
    """By how much a counter rose."""
    return after.total(name, **labels) - before.total(name, **labels)


def conversation(client: Client, scheduler: Scheduler) -> None:
    """Four turns of a chat, each of which waits for the one before. They stay on one
    replica and find what was said in its cache."""
    messages = [{"role": "user", "content": "Stan re " * 60}]
    ids = []
    for _ in range(4):
        answer = client.post(
            "/v1/chat/completions",
            {"messages": messages, "max_tokens": 20, "ignore_eos": True, "temperature": 0},
        ).json()
        ids.append(answer["id"])
        messages += [answer["choices"][0]["message"], {"role": "user", "content": "Stan re?"}]
        scheduler.settled()
    found = [scheduler.receipt(one) for one in ids]
    assert len({one.replica for one in found}) == 1
    assert all((one.actual_cached_tokens or 0) > 0 for one in found[1:])


def gauges_show_the_scheduler(server: Server) -> Metrics:
    """Of two replicas whose events are whole; what /metrics shows."""
    status = Scheduler().settled()
    expected = {str(one.replica): float(one.resident_blocks) for one in status.replicas}
    until(
        lambda: server.metrics().by("replica", "preble:resident_blocks"),
        lambda found: found == expected,
    )
    metrics = server.metrics()
    assert metrics.by("replica", "preble:stream_trust", state="exact") == {"0": 1.0, "1": 1.0}
    assert metrics.by("replica", "preble:event_gaps") == {"0": 0.0, "1": 0.0}
    assert all(0 <= lag < 5 for lag in metrics.by("replica", "preble:event_lag_seconds").values())
    return metrics
