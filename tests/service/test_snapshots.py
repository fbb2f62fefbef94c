from __future__ import annotations

import asyncio
import os
import signal
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from kv_publisher import KvPublisher
from service_builders import BLOCK_SIZE, PATIENT, document, placed_within, replica, until

from preble_plugin.core import ReplicaStatus, Trust
from preble_plugin.service.interface import Frontend
from preble_plugin.service.remote import Link, RemoteFrontend
from preble_plugin.service.scheduler_host import SchedulerHost
from preble_plugin.service.snapshots import SnapshotShelf, Taken
from preble_plugin.service.supervisor import SchedulerProcess
from preble_plugin.settings import Settings

SEED = bytes(range(16))


def of_replica(frontend: Frontend, rank: int) -> ReplicaStatus | None:
    status = frontend.status()
    found = [one for one in status.replicas if one.replica == rank] if status else []
    return found[0] if found else None


def knows(frontend: Frontend, rank: int, blocks: int, trust: Trust) -> Callable[[], bool]:
    def so() -> bool:
        one = of_replica(frontend, rank)
        return one is not None and (one.resident_blocks, one.trust) == (blocks, trust)

    return so


async def followed(host: SchedulerHost, rank: int, blocks: int) -> None:
    """Wait until the host has these blocks of a replica, exactly."""

    def so() -> bool:
        status = host.status()
        assert status is not None
        one = status.replicas[rank]
        return (one.resident_blocks, one.trust) == (blocks, Trust.EXACT)

    await until(so)


async def taken_from(publisher: KvPublisher, documents: int) -> Taken:
    """A snapshot of a replica that stored these many documents of 8 blocks."""
    host = SchedulerHost(Settings(), SEED)
    await host.start()
    host.set_replicas([replica(0, publisher.source)])
    for number in range(documents):
        publisher.store(document(number), BLOCK_SIZE)
    await followed(host, 0, 8 * documents)
    taken = host.take_snapshot(0)
    assert taken is not None
    await host.close()
    return taken


async def test_a_residency_survives_its_host(tmp_path: Path, publishers: list[KvPublisher]) -> None:
    shelf = SnapshotShelf(tmp_path)
    shelf.write(await taken_from(publishers[0], 10))
    successor = SchedulerHost(Settings(), SEED, recall=shelf.read)
    await successor.start()
    successor.set_replicas([replica(0, publishers[0].source)])
    publishers[0].store(document(10), BLOCK_SIZE)
    await followed(successor, 0, 88)
    status = successor.status()
    assert status is not None
    assert status.replicas[0].event_batches == 1  # the ten before came from the file
    await successor.close()


async def test_a_replica_that_left_before_its_refill_is_not_refilled(
    tmp_path: Path, publishers: list[KvPublisher]
) -> None:
    shelf = SnapshotShelf(tmp_path)
    shelf.write(await taken_from(publishers[0], 1))
    successor = SchedulerHost(Settings(), SEED, recall=shelf.read)
    await successor.start()
    successor.set_replicas([replica(0, publishers[0].source), replica(1)])
    successor.set_replicas([replica(1)])
    await until(lambda: not successor._streams.refilling)
    status = successor.status()
    assert status is not None
    assert [(one.replica, one.resident_blocks) for one in status.replicas] == [(1, 0)]
    await successor.close()


async def test_files_are_the_users_alone_and_whole(
    tmp_path: Path, publishers: list[KvPublisher]
) -> None:
    shelf = SnapshotShelf(tmp_path)
    shelf.write(await taken_from(publishers[0], 1))
    assert os.listdir(tmp_path) == [shelf.path(0).name]
    assert stat.S_IMODE(os.stat(shelf.path(0)).st_mode) == 0o600


async def test_it_holds_no_tokens(tmp_path: Path, publishers: list[KvPublisher]) -> None:
    shelf = SnapshotShelf(tmp_path)
    shelf.write(await taken_from(publishers[0], 2))
    content = shelf.path(0).read_bytes()
    for token in document(1)[:8]:
        pair = msgspec.msgpack.encode([token, token + 1])[1:]
        packed = token.to_bytes(4, "little") + (token + 1).to_bytes(4, "little")
        assert pair not in content
        assert packed not in content


async def test_another_event_source_does_not_get_it(
    tmp_path: Path, publishers: list[KvPublisher]
) -> None:
    shelf = SnapshotShelf(tmp_path)
    shelf.write(await taken_from(publishers[0], 1))
    assert shelf.read(replica(0, publishers[1].source)) is None
    assert shelf.read(replica(1, publishers[0].source)) is None
    assert shelf.read(replica(0, publishers[0].source)) is not None


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"\x94\x00", b"nonsense" * 100])
async def test_a_damaged_file_counts_as_none(
    tmp_path: Path, publishers: list[KvPublisher], damage: bytes
) -> None:
    shelf = SnapshotShelf(tmp_path)
    shelf.path(0).write_bytes(damage)
    assert shelf.read(replica(0, publishers[0].source)) is None


@pytest.mark.parametrize("spoil", ["seed", "bytes"])
async def test_a_snapshot_of_no_use_is_left_and_the_stream_starts_anew(
    tmp_path: Path, publishers: list[KvPublisher], spoil: str
) -> None:
    shelf = SnapshotShelf(tmp_path)
    taken = await taken_from(publishers[0], 3)
    if spoil == "bytes":
        taken = Taken(taken.spec, taken.position, lambda: b"\xc1")
    shelf.write(taken)
    seed = SEED if spoil == "bytes" else bytes(16)
    successor = SchedulerHost(Settings(), seed, recall=shelf.read)
    await successor.start()
    successor.set_replicas([replica(0, publishers[0].source)])
    await followed(successor, 0, 24)
    await successor.close()


async def test_a_replica_beyond_the_bound_is_not_saved(publishers: list[KvPublisher]) -> None:
    host = SchedulerHost(Settings(snapshot_blocks=7), SEED)
    await host.start()
    host.set_replicas([replica(0, publishers[0].source)])
    publishers[0].store(document(1), BLOCK_SIZE)
    await followed(host, 0, 8)
    assert host.take_snapshot(0) is None
    await host.close()


def test_clearing_leaves_nothing(tmp_path: Path) -> None:
    shelf = SnapshotShelf(tmp_path)
    spec = replica("backend/3", replica(0).events)
    shelf.path(spec.replica).touch()
    shelf.path(0).with_suffix(".new").touch()
    shelf.clear()
    assert list(tmp_path.iterdir()) == []


async def killed_after_a_snapshot(
    process: SchedulerProcess, frontend: RemoteFrontend, last_seq: int, publisher: KvPublisher
) -> None:
    assert process.directory is not None
    shelf = SnapshotShelf(process.directory.path)

    def saved_there() -> bool:
        saved = shelf.read(replica(0, publisher.source))
        return saved is not None and saved.position.last_seq == last_seq

    await until(saved_there)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)


@pytest.fixture
async def small_buffer(address: str) -> AsyncIterator[tuple[KvPublisher, RemoteFrontend]]:
    """A front end of a scheduler process whose replica's publisher forgets soon."""
    publisher = KvPublisher(buffer_batches=5)
    frontend = RemoteFrontend(address, PATIENT)
    frontend.set_replicas([replica(0, publisher.source), replica(1)])
    await frontend.start()
    await until(lambda: frontend.link is Link.UP)
    publisher.store(document(0), BLOCK_SIZE)
    await until(knows(frontend, 0, 8, Trust.EXACT))
    yield publisher, frontend
    await frontend.close()
    publisher.close()


async def test_a_killed_scheduler_is_refilled_with_what_the_publisher_forgot(
    process: SchedulerProcess, small_buffer: tuple[KvPublisher, RemoteFrontend]
) -> None:
    publisher, frontend = small_buffer
    for number in range(1, 40):
        publisher.store(document(number), BLOCK_SIZE)
        await asyncio.sleep(0)
    await until(knows(frontend, 0, 320, Trust.EXACT))
    await killed_after_a_snapshot(process, frontend, 39, publisher)
    for number in range(40, 43):
        publisher.store(document(number), BLOCK_SIZE)
    await until(lambda: frontend.link is not Link.UP)
    await placed_within(5, frontend, "r", document(3))
    await until(knows(frontend, 0, 344, Trust.EXACT))
    again = await placed_within(5, frontend, "r", document(7))
    assert (again.replica, again.cached_tokens) == (0, len(document(7)))


async def test_a_snapshot_that_does_not_connect_is_thrown_away(
    process: SchedulerProcess, small_buffer: tuple[KvPublisher, RemoteFrontend]
) -> None:
    publisher, frontend = small_buffer
    await killed_after_a_snapshot(process, frontend, 0, publisher)
    for number in range(1, 21):
        publisher.store(document(number), BLOCK_SIZE)
    await until(lambda: frontend.link is not Link.UP)
    await until(lambda: frontend.link is Link.UP)
    await until(knows(frontend, 0, 40, Trust.REBUILDING))
