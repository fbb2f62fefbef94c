"""The Python examples, run as they are on the tests' model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from preble_plugin.bench.tiny_model import make_tiny_model
from preble_plugin.bench.vllm_server import CPU_ENVIRONMENT
from tests.engines import SGLANG_ENVIRONMENT, TINY_MODEL, EngineRoom
from tests.engines.preble import RUN_ENVIRONMENT
from tests.examples.example_files import EXAMPLES

VLLM_ON_A_CPU = {"dtype": "float32", "enforce_eager": True, "max_model_len": 2048}
SGLANG_ON_A_CPU = {
    "device": "cpu",
    "attention_backend": "torch_native",
    "disable_overlap_schedule": True,
    "mem_fraction_static": 0.1,
    "max_total_tokens": 4096,
    "sleep_on_idle": True,
}


def said(
    name: str, more: dict[str, Any], environment: Mapping[str, str | None], record: Path
) -> list[int]:
    """Run an example; what it found cached, by question."""
    model = make_tiny_model(TINY_MODEL)
    ours = {**dict(RUN_ENVIRONMENT), "PREBLE_CONFIG": json.dumps({"record": str(record)})}
    laid_over = {**os.environ, **environment, **ours}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "python" / name), str(model), json.dumps(more)],
        env={key: value for key, value in laid_over.items() if value is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    found = re.findall(r"question-\d: (\d+) of (\d+) prompt tokens", done.stdout)
    assert all(int(cached) < int(prompt) for cached, prompt in found)
    return [int(cached) for cached, _ in found]


@pytest.mark.vllm
def test_with_asyncllm_later_questions_find_the_document(
    engine_room: EngineRoom, tmp_path: Path
) -> None:
    engine_room.close()  # one engine at a time
    record = tmp_path / "record"
    first, *later = said("asyncllm.py", VLLM_ON_A_CPU, CPU_ENVIRONMENT, record)
    assert first == 0
    assert len(later) == 2
    assert min(later) > 200
    # preble has placed them, all on one rank.
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["cached_tokens"] for line in lines] == [first, *later]
    assert len({line["replica"] for line in lines}) == 1


@pytest.mark.sglang
def test_with_sglangs_engine_later_questions_find_the_document(
    engine_room: EngineRoom, tmp_path: Path
) -> None:
    """By SGLang's own dispatch, in turns, the second would not."""
    engine_room.close()
    record = tmp_path / "record"
    first, *later = said("sglang_engine.py", SGLANG_ON_A_CPU, SGLANG_ENVIRONMENT, record)
    assert first == 0
    assert len(later) == 2
    assert min(later) > 200
