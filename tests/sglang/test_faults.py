"""Ranks that stop, garbage on our sockets, a loop of ours that cannot run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import msgspec
import psutil
import pytest
import zmq

from preble_plugin.bench.server import ServerError, members
from preble_plugin.bench.sglang_server import SglangServer
from preble_plugin.core.status import Trust
from preble_plugin.service.run_dir import living_servers
from tests.engines import EngineRoom, serving
from tests.engines.client import in_parallel, tokens
from tests.engines.preble import RUN_DIR, Audit, Scheduler, until
from tests.sglang.event_tap import TappedServer
from tests.sglang.preble_servers import (
    PAGES_OF_64,
    TWO,
    SglangClient,
    one_by_one,
    sglang_requests,
    told,
)

pytestmark = pytest.mark.sglang
CONTROLLER = "sglang::data_parallel_controller"


def process(server: SglangServer, name: str) -> psutil.Process:
    (found,) = [one for one in members(server.pid) if name in one.cmdline()[0]]
    return found


def directory(server: SglangServer) -> Path:
    """Of the sockets by which the ranks speak."""
    (found,) = (RUN_DIR / "events").glob(f"{server.pid}-*")
    return found


def exact(client: SglangClient, scheduler: Scheduler) -> None:
    before = scheduler.settled()
    one_by_one(client, scheduler, sglang_requests(seed=12, count=20))
    audit = Audit(before, scheduler.settled())
    assert audit.requests >= 20
    assert audit.exact == audit.requests, audit


@serving(TWO)
def test_an_idle_controller_leaves_its_core_to_others(server: SglangServer) -> None:
    Scheduler().settled()
    controller = process(server, CONTROLLER)
    assert controller.cpu_percent(interval=5.0) < 2


@serving(TWO)
def test_a_rank_that_pauses_is_waited_for(server: SglangServer) -> None:
    client, scheduler = SglangClient(server), Scheduler()
    before = scheduler.settled()
    paused = process(server, "sglang::scheduler_DP1")
    with ThreadPoolExecutor(12) as pool:
        paused.suspend()
        try:
            asked = [pool.submit(client.generate, tokens(40 + i, 300)) for i in range(12)]
            placed = until(
                scheduler.status,
                lambda now: (
                    now.placements == before.placements + 12 and now.replicas[0].running == 0
                ),
                seconds=60,
            )
            assert placed.in_flight == placed.replicas[1].running > 0
        finally:
            paused.resume()
        assert all(one.result()["output_ids"] for one in asked)
    exact(client, scheduler)


@serving(TWO)
def test_messages_that_are_no_outcomes_are_harmless(server: SglangServer) -> None:
    client, scheduler = SglangClient(server), Scheduler()
    pack = msgspec.msgpack.encode
    garbage = [
        b"",
        b"\xc1",
        os.urandom(1000),
        pack("text"),
        pack({"at": 1.0}),
        pack([]),
        pack([1.0, [["a"]], []]),
        pack([1.0, [["nobody", 5]], [["nobody", 3, 5, False]]]),
        pack([1.0, [["nobody", -5]], [["nobody", -3, None, True]]]),
        pack([float("nan"), [], []]),
        pack([1.0, [["x" * 1_000_000, 1 << 63]], []]),
    ]
    chunks = client.generated(tokens(60, 100), max_new_tokens=400, rid="meanwhile")
    next(chunks)
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(f"ipc://{directory(server)}/outcomes")
        for number in range(2000):
            socket.send(garbage[number % len(garbage)])
        socket.send_multipart([b"one", b"two"])
    list(chunks)
    receipt = scheduler.receipt("meanwhile")
    assert (receipt.finish, receipt.output_tokens) == ("finished", 400)
    exact(client, scheduler)


@serving(PAGES_OF_64)
def test_events_that_are_lost_or_garbled_are_replayed(server: TappedServer) -> None:
    client, scheduler = SglangClient(server), Scheduler()
    assert server.tap.subscribed == {0, 1}
    documents = [tokens(70 + i, 400) for i in range(4)]
    # Of a stream that nothing came of yet, what is lost at its start is no gap.
    client.generate(tokens(69, 100), routed_dp_rank=1)
    before = until(lambda: scheduler.replica(1), lambda now: now.event_batches > 0)
    server.tap.drop(1, batches=2)
    server.tap.garble(1, batches=1)
    for document in documents:
        client.generate(document, routed_dp_rank=1)
    until(lambda: server.tap.spent, bool)
    healed = until(
        lambda: scheduler.replica(1),
        lambda now: now.event_gaps > before.event_gaps and now.trust is Trust.EXACT,
    )
    assert healed.event_errors > before.event_errors
    for document in documents:
        receipt = scheduler.receipt(client.generate(document)["meta_info"]["id"])
        assert told(receipt) == (384, 384)
    exact(client, scheduler)


def test_what_a_rank_that_dies_would_have_got_goes_to_the_other(engine_room: EngineRoom) -> None:
    """SGLang itself waits for a process that is no more, with all requests to come. What
    it got while it died is sent again."""
    server = engine_room.serve(TWO)
    client, scheduler, group = SglangClient(server), Scheduler(), server.pid
    scheduler.settled()
    chunks = client.generated(tokens(90, 100), rid="long", max_new_tokens=3000, routed_dp_rank=0)
    next(chunks)
    process(server, "sglang::scheduler_DP0").kill()
    for number in range(12):
        fixed = {"routed_dp_rank": 0} if number % 4 == 1 else {}
        answer = client.generate(tokens(200 + number, 200), **fixed)
        assert answer["meta_info"]["dp_rank"] == 1
    client.abort("long")
    settled = scheduler.settled()
    assert [one.replica for one in settled.replicas] == [1]
    gone = [line for line in server.log_text().splitlines() if "rank 0 is gone" in line]
    assert len(gone) == 1
    assert "restart the server to have it back" in gone[0]
    exact(client, scheduler)
    engine_room.close()
    # A process that was killed shows as dead while its last threads still hold its lock.
    until(lambda: (members(group), living_servers(RUN_DIR)), lambda left: left == ([], []))


@pytest.fixture
def loopless(engine_room: EngineRoom, tmp_path: Path) -> Iterator[Callable[[str], SglangServer]]:
    """Starts a server in whose run directory something stands where the socket for outcomes
    would be, by a choice of `--dp-scheduler`."""
    engine_room.close()
    made: list[SglangServer] = []

    def start(choice: str) -> SglangServer:
        flags = tuple(choice if flag == "preble" else flag for flag in TWO.flags)
        server = replace(TWO, flags=flags).build(tmp_path / "server.log")
        made.append(server)

        def stand_in_the_way(_: float) -> None:
            for found in (RUN_DIR / "events").glob(f"{server.pid}-*"):
                (found / "outcomes").mkdir(exist_ok=True)

        server.start(waiting=stand_in_the_way)
        return server

    yield start
    for server in made:
        server.stop()


SAID = "--dp-scheduler preble could not start: ZMQError('Address already in use"


def test_a_server_ends_where_our_loop_cannot_start(
    loopless: Callable[[str], SglangServer],
) -> None:
    with pytest.raises(ServerError) as ended:
        loopless("preble")
    assert f"CannotWork: {SAID}" in str(ended.value)


def test_under_auto_sglangs_own_loop_goes_on_where_ours_cannot_start(
    loopless: Callable[[str], SglangServer],
) -> None:
    server = loopless("auto")
    client = SglangClient(server)
    assert in_parallel(8, lambda i: len(client.generate(tokens(i, 50))["output_ids"])) == [3] * 8
    warned = [line for line in server.log_text().splitlines() if SAID in line]
    assert len(warned) == 1
    assert "SGLang's own dispatch is used." in warned[0]
    assert server.metrics().total("preble:placements_total") == 0
