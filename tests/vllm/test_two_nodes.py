"""One vLLM over two nodes, which are two addresses of this machine's loopback: the second
runs the second rank, `--headless`, and its cache events cross by TCP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from preble_plugin.bench.engines import Vllm
from preble_plugin.bench.server import free_port
from preble_plugin.bench.tiny_model import make_tiny_model
from preble_plugin.bench.vllm_server import TWO_REPLICAS, VllmServer
from tests.engines import TINY_MODEL, EngineRoom, Serving
from tests.engines.client import Client, tokens
from tests.engines.preble import RUN_ENVIRONMENT, Audit, Scheduler, until
from tests.vllm.preble_servers import SMALL_CACHE, vllm_requests

pytestmark = pytest.mark.vllm
HEAD, SECOND = "127.0.0.1", "127.0.0.2"


def flags(port: int) -> tuple[str, ...]:
    """What both nodes are told."""
    return (
        *TWO_REPLICAS,
        *SMALL_CACHE,
        *("--data-parallel-size-local", "1"),
        *("--data-parallel-address", HEAD),
        *("--data-parallel-rpc-port", str(port)),
        *("--dp-scheduler", "preble"),
    )


@contextmanager
def second_node(port: int, log: Path) -> Iterator[None]:
    """The node without an API server, which waits for the head; ended with all it started."""
    program = str(Path(sys.executable).parent / "vllm")
    model = str(make_tiny_model(TINY_MODEL))
    own = ("--headless", "--data-parallel-start-rank", "1")
    laid_over = {**os.environ, **Vllm().environment, **dict(_environment(SECOND))}
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [program, "serve", model, *flags(port), *own],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env={key: value for key, value in laid_over.items() if value is not None},
            start_new_session=True,
        )
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _environment(address: str) -> tuple[tuple[str, str], ...]:
    return (*RUN_ENVIRONMENT, ("VLLM_HOST_IP", address))


@pytest.fixture(scope="module")
def head(engine_room: EngineRoom, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    engine_room.close()  # one engine at a time
    port = free_port()
    with second_node(port, tmp_path_factory.mktemp("nodes") / "second.log"):
        kind = Serving(flags=flags(port), environment=_environment(HEAD), base=())
        yield engine_room.fresh(kind)
        engine_room.close()


def test_requests_are_placed_on_both_and_hits_are_as_predicted(head: VllmServer) -> None:
    client, scheduler = Client(head), Scheduler()
    until(scheduler.settled, lambda status: [one.trust for one in status.replicas] == ["exact"] * 2)
    before = scheduler.settled()
    for body in vllm_requests(seed=31, count=100):
        client.complete(**body)
        scheduler.settled()
    after = scheduler.settled()
    audit = Audit(before, after)
    assert audit.requests >= 100
    assert audit.exact >= 0.99 * audit.requests, audit
    assert all(one.actual_cached_tokens > 0 for one in after.replicas)
    assert [one.trust for one in after.replicas] == ["exact", "exact"]


def test_a_prefix_that_the_second_node_has_is_found_there(head: VllmServer) -> None:
    client, scheduler = Client(head), Scheduler()
    document = tokens(32, 640)
    there = {"X-data-parallel-rank": "1"}
    client.complete(document, headers=there)
    scheduler.settled()
    receipt = scheduler.receipt(client.complete(document)["id"])
    assert receipt.replica == 1
    assert receipt.actual_cached_tokens == receipt.predicted_cached_tokens == 608
