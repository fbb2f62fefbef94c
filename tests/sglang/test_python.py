"""Placement from Python: `sgl.Engine` with the choice among its arguments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from preble_plugin.bench.tiny_model import make_tiny_model
from tests.engines import ROOT, SGLANG_ENVIRONMENT, TINY_MODEL, EngineRoom
from tests.engines.preble import RUN_DIR, RUN_ENVIRONMENT

pytestmark = pytest.mark.sglang


@pytest.fixture(scope="module")
def seen(engine_room: EngineRoom) -> dict[str, Any]:
    """What a program saw that uses `sgl.Engine` with placement."""
    engine_room.close()  # one engine at a time
    ours = {**dict(RUN_ENVIRONMENT), "PREBLE_TEST_RUN_DIR": str(RUN_DIR)}
    laid_over = {**os.environ, **SGLANG_ENVIRONMENT, **ours}
    process = subprocess.run(
        [sys.executable, "-m", "tests.sglang.engine_program", str(make_tiny_model(TINY_MODEL))],
        cwd=ROOT,
        env={key: value for key, value in laid_over.items() if value is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=250,
    )
    assert process.returncode == 0, process.stdout[-5000:]
    lines = [line for line in process.stdout.splitlines() if line.startswith('{"cached"')]
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def test_an_engines_requests_meet_their_prefix_as_predicted(seen: dict[str, Any]) -> None:
    assert seen["cached"] == seen["predicted"] == [0, 304, 304]
    assert len(set(seen["replicas"])) == 1


def test_an_engine_obeys_a_fixed_rank(seen: dict[str, Any]) -> None:
    assert seen["fixed"] == [1, "fixed"]


def test_an_engine_has_the_settings_it_was_given(seen: dict[str, Any]) -> None:
    assert seen["kept"] == 0  # of 20 receipts, the first have made room


def test_an_engine_leaves_nothing_behind(seen: dict[str, Any]) -> None:
    assert (seen["aborted"], seen["in_flight"], seen["flushed"]) == ("abort", 0, True)
    assert seen["trust"] == ["exact", "exact"]
