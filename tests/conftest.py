"""Settings for all tests, and the one place where real engines run."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from tests.engines import EngineRoom

# The machines are shared: work is counted, never timed.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

_ROOT: Final = Path(__file__).parents[1]
_ENGINE: Final = re.compile(
    r"\bengine_room\b|\bserver: (Vllm|Sglang)Server\b|@serving\(|= serving\("
)
"""What the source of a module with tests on real engines has in it."""


def pytest_configure(config: pytest.Config) -> None:
    """One run directory for all processes that collect tests: it is in the tests' names."""
    if "PREBLE_TEST_RUN_DIR" not in os.environ:
        made = os.environ["PREBLE_TEST_RUN_DIR"] = tempfile.mkdtemp(prefix="preble-t")
        config.add_cleanup(lambda: shutil.rmtree(made, ignore_errors=True))


@cache
def _on_engines(path: str) -> bool:
    """Whether a module has tests on real engines."""
    return bool(_ENGINE.search((_ROOT / path).read_text("utf-8")))


def _module(nodeid: str) -> str:
    return nodeid.partition("::")[0]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules on real engines come last."""
    items.sort(key=lambda item: _on_engines(_module(item.nodeid)))


class _Processes(LoadScopeScheduling):
    """A module's tests run in one process, and all on real engines: one server at a time."""

    def _split_scope(self, nodeid: str) -> str:
        module = _module(nodeid)
        return "engines" if _on_engines(module) else module


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Processes:
    """Whichever way of distribution was asked for."""
    return _Processes(config, log)


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
