"""Placement from Python: `AsyncLLM` with the choice in `additional_config`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from preble_plugin.bench.tiny_model import make_tiny_model
from preble_plugin.bench.vllm_server import CPU_ENVIRONMENT
from tests.engines import TINY_MODEL, EngineRoom
from tests.engines.preble import RUN_DIR

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def seen(engine_room: EngineRoom) -> dict[str, Any]:
    engine_room.close()  # one engine at a time
    ours = {"PREBLE_RUN_DIR": str(RUN_DIR), "PREBLE_TEST_RUN_DIR": str(RUN_DIR)}
    process = subprocess.run(
        [sys.executable, "-m", "tests.vllm.async_engine", str(make_tiny_model(TINY_MODEL))],
        env={**os.environ, **CPU_ENVIRONMENT, **ours},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stdout[-5000:]
    lines = [line for line in process.stdout.splitlines() if line.startswith('{"cached"')]
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def test_shared_prefixes_meet_on_one_rank_as_predicted(seen: dict[str, Any]) -> None:
    assert seen["cached"] == seen["predicted"] == [0, 288, 288]
    assert len(set(seen["replicas"])) == 1


def test_a_fixed_rank_is_obeyed(seen: dict[str, Any]) -> None:
    assert seen["fixed"] == [1, "fixed"]


def test_samples_and_embeddings_are_answered(seen: dict[str, Any]) -> None:
    assert (seen["samples"], seen["embeddings"]) == (4, 3)


def test_a_streaming_input_is_answered_part_by_part(seen: dict[str, Any]) -> None:
    assert seen["streaming"] == 12


def test_aborts_and_cancellations_leave_nothing_behind(seen: dict[str, Any]) -> None:
    assert (seen["aborted"], seen["in_flight"]) == ("abort", 0)


def test_the_engines_own_calls_work(seen: dict[str, Any]) -> None:
    assert (seen["reset"], seen["trust"]) == (True, ["exact", "exact"])
