"""Settings for all tests, and the one place where real engines run."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.engines import EngineRoom

# The machines are shared: work is counted, never timed.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


def pytest_configure(config: pytest.Config) -> None:
    """One run directory for all processes that collect tests: it is in the tests' names."""
    if "PREBLE_TEST_RUN_DIR" not in os.environ:
        made = os.environ["PREBLE_TEST_RUN_DIR"] = tempfile.mkdtemp(prefix="preble-t")
        config.add_cleanup(lambda: shutil.rmtree(made, ignore_errors=True))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What pytest-xdist keeps in one process: the tests of a module; and, after all others,
    those on real engines, which run one at a time."""
    on_engines = {item for item in items if "engine_room" in getattr(item, "fixturenames", ())}
    for item in items:
        group = "engines" if item in on_engines else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=on_engines.__contains__)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, Any]:
    """A server on which a test failed is not shared with the next."""
    report = yield
    room = getattr(item, "funcargs", {}).get("engine_room")
    if report.failed and room is not None:
        room.close()
    return report


@pytest.fixture
def run_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run directory of the test's own, with a path that a socket's can hold."""
    path = Path(tempfile.mkdtemp(prefix="pb-", dir="/tmp"))
    monkeypatch.setenv("PREBLE_RUN_DIR", str(path))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def engine_room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineRoom]:
    """Starts servers, one at a time, and ends the last one after the last test."""
    room = EngineRoom(tmp_path_factory.mktemp("engines"))
    yield room
    room.close()
