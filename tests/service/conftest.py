from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from kv_publisher import KvPublisher
from service_builders import PATIENT, MakeTwin, replica, until

from preble_plugin.service.interface import Frontend, ReplicaSpec
from preble_plugin.service.local import LocalFrontend
from preble_plugin.service.remote import Link, RemoteFrontend
from preble_plugin.service.supervisor import SchedulerProcess
from preble_plugin.settings import Settings


@pytest.fixture
def publishers() -> Iterator[list[KvPublisher]]:
    """The event publishers of replicas 0 and 1."""
    both = [KvPublisher(), KvPublisher()]
    yield both
    for one in both:
        one.close()


@pytest.fixture
def replicas(publishers: list[KvPublisher]) -> list[ReplicaSpec]:
    return [replica(rank, one.source) for rank, one in enumerate(publishers)]


@pytest.fixture
def process(run_dir: Path) -> Iterator[SchedulerProcess]:
    """A scheduler process, not started."""
    process = SchedulerProcess()
    yield process
    process.stop()


@pytest.fixture
def address(process: SchedulerProcess, run_dir: Path) -> str:
    """Where a scheduler process with default settings listens."""
    return process.start(PATIENT, run_dir)


@pytest.fixture(params=["local", "remote"])
async def twin_of(
    request: pytest.FixtureRequest, run_dir: Path, process: SchedulerProcess
) -> AsyncIterator[MakeTwin]:
    """Makes each twin in turn, started, without replicas."""
    made: list[Frontend] = []

    async def make(settings: Settings) -> Frontend:
        frontend: Frontend
        if request.param == "local":
            frontend = LocalFrontend(settings)
        else:
            frontend = RemoteFrontend(process.start(settings, run_dir), settings)
        made.append(frontend)
        await frontend.start()
        await frontend.start()
        return frontend

    yield make
    for frontend in made:
        await frontend.close()
        await frontend.close()


@pytest.fixture
async def remote(address: str) -> AsyncIterator[RemoteFrontend]:
    """A front end of the scheduler process, with two replicas without events."""
    frontend = RemoteFrontend(address, PATIENT)
    frontend.set_replicas([replica(0), replica(1)])
    await frontend.start()
    await until(lambda: frontend.link is Link.UP)
    yield frontend
    await frontend.close()


@pytest.fixture
async def local(run_dir: Path) -> AsyncIterator[LocalFrontend]:
    """The in-process front end, with two replicas without events."""
    frontend = LocalFrontend(Settings())
    frontend.set_replicas([replica(0), replica(1)])
    await frontend.start()
    yield frontend
    await frontend.close()
