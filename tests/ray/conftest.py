"""A Ray of our own on this machine, for the tests that need one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray
from ray import serve

_SECONDS = 30


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """Ray Serve without proxies: handles in this process call its deployments."""
    home = Path(tempfile.mkdtemp(prefix="ray"))  # short: sockets have their paths in it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PREBLE_RUN_DIR", str(home / "run"))
        patch.delenv("RAY_ADDRESS", raising=False)
        before = set(psutil.Process().children(recursive=True))
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100 << 20,
            _temp_dir=str(home),
        )
        started: set[psutil.Process] = set()
        try:
            serve.start(proxy_location="Disabled")
            yield
            started = set(psutil.Process().children(recursive=True)) - before
            serve.shutdown()
        finally:
            started |= set(psutil.Process().children(recursive=True)) - before
            ray.shutdown()
            _, alive = psutil.wait_procs(started, timeout=_SECONDS)
            for process in alive:
                process.kill()
            shutil.rmtree(home, ignore_errors=True)
        assert not alive, f"Ray left {[process.pid for process in alive]} to process {os.getpid()}"
