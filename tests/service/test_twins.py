"""The same calls have the same effect on both twins."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from kv_publisher import KvPublisher
from service_builders import (
    BLOCK_SIZE,
    PATIENT,
    MakeTwin,
    document,
    hasher_of,
    placed,
    replica,
    request,
    until,
)

from preble_plugin.core import BlockHasher, Finished, FirstToken, Placement
from preble_plugin.service.interface import Frontend, ReplicaSpec, Unplaced
from preble_plugin.service.local import LocalFrontend
from preble_plugin.service.remote import RemoteFrontend
from preble_plugin.service.supervisor import SchedulerProcess
from preble_plugin.settings import Settings


@pytest.fixture
async def twin(twin_of: MakeTwin) -> Frontend:
    """Each twin in turn, started, without replicas."""
    return await twin_of(PATIENT)


async def ready(frontend: Frontend, replicas: list[ReplicaSpec]) -> None:
    frontend.set_replicas(replicas)
    await until(lambda: frontend.hasher is not None)


def blocks(frontend: Frontend) -> dict[object, int]:
    status = frontend.status()
    return {one.replica: one.resident_blocks for one in status.replicas} if status else {}


async def test_before_replicas_nothing_is_placed(twin: Frontend) -> None:
    early = request(BlockHasher(BLOCK_SIZE), "r", document(1))
    assert await twin.place(early) == Unplaced("not_ready")
    assert twin.hasher is None
    assert twin.status() is None


async def test_equal_prompts_meet(twin: Frontend) -> None:
    await ready(twin, [replica(0), replica(1)])
    first = await placed(twin, "r1", document(1))
    second = await placed(twin, "r2", document(1))
    assert (second.replica, second.cached_tokens) == (first.replica, len(document(1)))


async def test_events_decide_where_a_prompt_goes(
    twin: Frontend, replicas: list[ReplicaSpec], publishers: list[KvPublisher]
) -> None:
    publishers[1].store(document(1), BLOCK_SIZE)
    await ready(twin, replicas)
    await until(lambda: blocks(twin).get(1) == 8)
    placement = await placed(twin, "r1", document(1))
    assert (placement.replica, placement.cached_tokens) == (1, len(document(1)))


async def test_a_fixed_replica_is_obeyed_and_an_unknown_one_is_not_placed(twin: Frontend) -> None:
    await ready(twin, [replica(0), replica(1)])
    hasher = hasher_of(twin)
    fixed = await twin.place(request(hasher, "r1", document(1), fixed_replica=1))
    assert isinstance(fixed, Placement)
    assert (fixed.replica, fixed.branch) == (1, "fixed")
    unknown = await twin.place(request(hasher, "r2", document(1), fixed_replica=9))
    assert unknown == Unplaced("no_replica")


async def test_outcomes_and_status_agree(twin: Frontend) -> None:
    await ready(twin, [replica(0), replica(1)])
    placement = await placed(twin, "r1", document(1))
    now = time.monotonic()
    twin.observe(placement.replica, [FirstToken("r1", 16)], now)
    twin.dispatched(request(hasher_of(twin), "r2", document(2)), 1)

    def seen() -> tuple[int, int, int] | None:
        status = twin.status()
        if status is None:
            return None
        actual = sum(one.actual_cached_tokens for one in status.replicas)
        return status.in_flight, status.placements, actual

    await until(lambda: seen() == (2, 2, 16))
    twin.observe(placement.replica, [Finished("r1", 4)], now)
    twin.observe(1, [Finished("r2", 0, aborted=True)], now)
    await until(lambda: seen() == (0, 2, 16))


async def test_replicas_come_and_go(twin: Frontend) -> None:
    await ready(twin, [replica(0), replica(1)])
    twin.set_replicas([replica(1), replica("other/2")])
    await until(lambda: set(blocks(twin)) == {1, "other/2"})


async def test_a_conflict_is_dropped_and_placement_goes_on(twin: Frontend) -> None:
    await ready(twin, [replica(0), replica(1)])
    twin.set_replicas([replica(0, block_size=99)])
    await placed(twin, "r1", document(1))


async def test_nothing_raises_after_close(twin: Frontend) -> None:
    await ready(twin, [replica(0)])
    hasher = hasher_of(twin)
    await twin.close()
    await twin.place(request(hasher, "r1", document(1)))
    twin.dispatched(request(hasher, "r2", document(1)), 0)
    twin.observe(0, [Finished("r1", 1)], time.monotonic())
    twin.set_replicas([replica(0)])


async def test_the_same_script_gives_the_same_placements(
    run_dir: Path, process: SchedulerProcess
) -> None:
    # Round-robin: seeds differ, and with them how ties are broken; loads fall with time.
    settings = Settings(policy="round-robin", placement_deadline_seconds=5.0)
    script = [(f"r{number}", document(number % 7, 4 + number % 3)) for number in range(60)]
    views = []
    for frontend in (
        LocalFrontend(settings),
        RemoteFrontend(process.start(settings, run_dir), settings),
    ):
        await frontend.start()
        await ready(frontend, [replica(rank) for rank in range(4)])
        answers = [await placed(frontend, name, tokens) for name, tokens in script]
        views.append([(one.replica, one.cached_tokens, one.branch) for one in answers])
        await frontend.close()
    assert views[0] == views[1]
    assert len({cached for _, cached, _ in views[0]}) > 2
