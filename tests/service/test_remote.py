from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zmq
from service_builders import (
    BLOCK_SIZE,
    PATIENT,
    document,
    hasher_of,
    placed,
    placed_within,
    replica,
    request,
    until,
)

from preble_plugin.core import BlockHasher, Finished, FirstToken, Placement
from preble_plugin.service import messages
from preble_plugin.service.admin import ServiceStatus, StatusQuestion, ask
from preble_plugin.service.interface import Unplaced
from preble_plugin.service.remote import Link, RemoteFrontend
from preble_plugin.service.run_dir import ADMIN_SOCKET
from preble_plugin.service.supervisor import SchedulerProcess
from preble_plugin.settings import Settings


def server_status(process: SchedulerProcess) -> ServiceStatus:
    assert process.directory is not None
    answer = ask(process.directory.path / ADMIN_SOCKET, StatusQuestion())
    assert isinstance(answer, ServiceStatus)
    return answer


def in_flight(process: SchedulerProcess) -> int:
    status = server_status(process).scheduler
    return status.in_flight if status is not None else -1


def pid_of(process: SchedulerProcess) -> int:
    assert process.pid is not None
    return process.pid


def a_socket(address: str) -> zmq.Socket[bytes]:
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(address)
    return socket


async def test_no_scheduler_means_not_ready_at_once(run_dir: Path) -> None:
    frontend = RemoteFrontend(f"ipc://{run_dir}/nobody.sock", PATIENT)
    frontend.set_replicas([replica(0)])
    await frontend.start()
    started = time.monotonic()
    early = request(BlockHasher(BLOCK_SIZE), "r", document(1))
    assert await frontend.place(early) == Unplaced("not_ready")
    assert time.monotonic() - started < PATIENT.placement_deadline_seconds / 2
    await frontend.close()


async def test_a_scheduler_that_does_not_answer_in_time_is_not_waited_for(
    process: SchedulerProcess, address: str
) -> None:
    frontend = RemoteFrontend(address, Settings(placement_deadline_seconds=0.05))
    frontend.set_replicas([replica(0)])
    await frontend.start()
    await until(lambda: frontend.link is Link.UP)
    hasher = hasher_of(frontend)
    os.kill(pid_of(process), signal.SIGSTOP)
    try:
        first = await frontend.place(request(hasher, "r1", document(1)))
        second = await frontend.place(request(hasher, "r2", document(1)))
    finally:
        os.kill(pid_of(process), signal.SIGCONT)
    assert (first, second) == (Unplaced("deadline"), Unplaced("scheduler_down"))
    await placed_within(5, frontend, "r3", document(1))
    await until(lambda: in_flight(process) == 1)
    await frontend.close()


async def test_a_cancelled_placement_leaves_the_load(
    remote: RemoteFrontend, process: SchedulerProcess
) -> None:
    placing = asyncio.ensure_future(remote.place(request(hasher_of(remote), "r1", document(1))))
    await asyncio.sleep(0)
    placing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await placing
    await placed(remote, "r2", document(2))
    await until(lambda: in_flight(process) == 1)


async def test_the_end_of_an_attempt_that_moved_on_is_not_that_of_the_request(
    remote: RemoteFrontend, process: SchedulerProcess
) -> None:
    moved = request(hasher_of(remote), "r1", document(1))
    answer = await remote.place(moved)
    assert isinstance(answer, Placement)
    remote.dispatched(moved, 1 - int(answer.replica))
    remote.observe(answer.replica, [Finished("r1", 0, aborted=True)], time.monotonic())
    first_instance = remote.instance
    os.kill(pid_of(process), signal.SIGKILL)
    await until(lambda: remote.instance != first_instance and in_flight(process) == 1)


async def test_the_scheduler_is_killed_under_load_and_comes_back_with_the_load_it_had(
    remote: RemoteFrontend, process: SchedulerProcess
) -> None:
    hasher = hasher_of(remote)
    first_instance = remote.instance
    long_running = await placed(remote, "long", document(99))
    remote.observe(long_running.replica, [FirstToken("long", 0)], time.monotonic())
    causes: set[str] = set()
    stop = asyncio.Event()

    async def client(number: int) -> int:
        answered = 0
        while not stop.is_set():
            name = f"{number}-{answered}"
            asked = request(hasher, name, document(answered % 5))
            answer = await remote.place(asked)
            if isinstance(answer, Unplaced):
                causes.add(answer.cause)
                remote.dispatched(asked, 0)
            rank = answer.replica if isinstance(answer, Placement) else 0
            remote.observe(rank, [FirstToken(name, None), Finished(name, 1)], time.monotonic())
            answered += 1
            await asyncio.sleep(0.002)
        return answered

    clients = [asyncio.create_task(client(number)) for number in range(16)]
    await asyncio.sleep(0.1)
    killed = time.monotonic()
    os.kill(pid_of(process), signal.SIGKILL)
    await until(lambda: remote.link is not Link.UP)
    await until(lambda: remote.link is Link.UP)
    back = time.monotonic() - killed
    await placed_within(5, remote, "after", document(1))
    stop.set()
    answered = await asyncio.gather(*clients)
    assert min(answered) > 0
    assert causes <= {"scheduler_down", "deadline"}
    assert remote.instance != first_instance
    assert hasher_of(remote).seed == hasher.seed
    assert process.deaths == 1
    assert back < 5
    await until(lambda: in_flight(process) == 2)  # `long` and `after`


async def test_a_killed_front_ends_load_is_dropped(
    remote: RemoteFrontend,
    process: SchedulerProcess,
    address: str,
) -> None:
    code = (
        "import asyncio, os, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from service_builders import *\n"
        "from preble_plugin.service.remote import Link, RemoteFrontend\n"
        "from preble_plugin.settings import Settings\n"
        "async def main():\n"
        f"    frontend = RemoteFrontend({address!r}, Settings(placement_deadline_seconds=5))\n"
        "    frontend.set_replicas([replica(0), replica(1)])\n"
        "    await frontend.start()\n"
        "    await until(lambda: frontend.link is Link.UP)\n"
        "    for number in range(5):\n"
        "        await placed(frontend, f'theirs-{number}', document(number))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    await placed(remote, "ours", document(1))
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=False)
    assert in_flight(process) == 6
    await until(lambda: in_flight(process) == 1, messages.SILENCE_SECONDS + 10)
    assert server_status(process).front_ends == 1


async def test_garbage_on_the_socket_harms_nobody(
    remote: RemoteFrontend, process: SchedulerProcess, address: str
) -> None:
    stranger = a_socket(address)
    garbage: list[list[bytes]] = [
        [b""], [b"\xc1" * 100], [b"a", b"b", b"c"], [b"\x93\x03\x01"], [os.urandom(1 << 20)]
    ]  # fmt: skip
    for frames in garbage:
        stranger.send_multipart(frames)
    await until(lambda: server_status(process).bad_messages == len(garbage))
    await placed(remote, "r1", document(1))
    stranger.close()


async def test_a_message_beyond_all_bounds_ends_its_senders_connection_only(
    remote: RemoteFrontend, address: str
) -> None:
    stranger = a_socket(address)
    stranger.send(bytes(messages.LARGEST_MESSAGE + 1))
    await placed(remote, "r1", document(1))
    stranger.close()


async def test_a_client_that_never_reads_is_dropped_and_blocks_nobody(
    remote: RemoteFrontend, process: SchedulerProcess, address: str
) -> None:
    lazy = zmq.Context.instance().socket(zmq.DEALER)
    lazy.setsockopt(zmq.LINGER, 0)
    lazy.setsockopt(zmq.RCVHWM, 1)
    lazy.setsockopt(zmq.SNDHWM, 0)
    lazy.connect(address)
    hello = messages.Hello(1, [replica(0), replica(1)])
    lazy.send(messages.encoder.encode(hello))
    await until(lambda: server_status(process).front_ends == 2)
    asked = messages.encoder.encode(
        messages.Place(1, request(hasher_of(remote), "lazy", document(1)))
    )
    sent = 0
    while server_status(process).front_ends == 2:
        assert sent < 2_000_000, "it is never dropped"
        for _ in range(2_000):
            lazy.send(asked)
        sent += 2_000
        await placed(remote, f"r{sent}", document(1))
    lazy.close()
    await placed(remote, "after", document(1))


async def test_a_front_end_that_loses_messages_tells_its_requests_over_again(
    remote: RemoteFrontend, process: SchedulerProcess
) -> None:
    first = await placed(remote, "r1", document(1))
    await placed(remote, "r2", document(2))
    os.kill(pid_of(process), signal.SIGSTOP)
    try:
        now = time.monotonic()
        while remote.dropped == 0:
            remote.observe(0, [FirstToken("unknown" * 50, 0)], now)
        remote.observe(first.replica, [Finished("r1", 1)], now)
    finally:
        os.kill(pid_of(process), signal.SIGCONT)
    await until(lambda: in_flight(process) == 1)


async def test_a_scheduler_that_hangs_is_left_and_found_again(
    remote: RemoteFrontend, process: SchedulerProcess
) -> None:
    await placed(remote, "r1", document(1))
    os.kill(pid_of(process), signal.SIGSTOP)
    try:
        await until(lambda: remote.link is Link.DOWN)
        asked = request(hasher_of(remote), "r2", document(2))
        assert await remote.place(asked) == Unplaced("scheduler_down")
        remote.dispatched(asked, 1)
        assert remote.status() is None
    finally:
        os.kill(pid_of(process), signal.SIGCONT)
    await until(lambda: remote.link is Link.UP)
    await until(lambda: in_flight(process) == 2)


async def test_a_refused_front_end_is_told_why_and_others_go_on(
    remote: RemoteFrontend, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    other = RemoteFrontend(address, PATIENT)
    other.set_replicas([replica(0, block_size=64)])
    await other.start()
    await until(lambda: "blocks of 64 tokens, the scheduler 16" in caplog.text)
    assert await other.place(request(hasher_of(remote), "r", document(1))) == Unplaced("not_ready")
    await placed(remote, "r1", document(1))
    await other.close()


async def test_a_front_end_that_was_taken_for_silent_introduces_itself_again(
    remote: RemoteFrontend, process: SchedulerProcess
) -> None:
    await placed(remote, "r1", document(1))
    remote._send(messages.Goodbye())
    await until(lambda: in_flight(process) == 1 and server_status(process).front_ends == 1)
    await placed_within(5, remote, "r2", document(1))
