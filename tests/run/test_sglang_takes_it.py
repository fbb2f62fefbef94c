"""SGLang's own parser on the commands that are run, and on the names that are looked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from preble_plugin.bench.tiny_model import make_tiny_model
from preble_plugin.run.engines import EVENTS, HOST, KEYS, PORT, SCHEDULER, SGLANG, TLS
from tests.engines import ROOT, SGLANG_ENVIRONMENT, TINY_MODEL
from tests.run.plans import apart, inside

pytestmark = pytest.mark.sglang

MODEL = str(TINY_MODEL)
COMMANDS = {
    "inside": inside("sglang", "--tp-size", "2", model=MODEL, host="::1", port=8123),
    "short": inside("sglang", "--tp", "4", "--dp", "2", "--device", "cpu", model=MODEL),
    "apart": list(
        apart("sglang", "--host", "0.0.0.0", "--dp-size", "2", model=MODEL, separate=True)
        .backends[1]
        .command[4:]
    ),
}


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What SGLang makes of all of them."""
    make_tiny_model(TINY_MODEL)
    overlaid = {**os.environ, **SGLANG_ENVIRONMENT}
    done = subprocess.run(
        [sys.executable, "-m", "tests.run.sglang_parsed"],
        input=json.dumps(list(COMMANDS.values())),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=ROOT,
        env={key: value for key, value in overlaid.items() if value is not None},
    )
    found = json.loads(done.stdout)
    return {"names": found["names"], **dict(zip(COMMANDS, found["parsed"], strict=True))}


def test_one_engine(told: dict[str, Any]) -> None:
    found = told["inside"]
    assert (found["model_path"], found["host"], found["port"]) == (MODEL, "::1", 8123)
    assert (found["tp_size"], found["dp_size"], found["dp_scheduler"]) == (2, 4, "preble")


def test_flags_of_few_letters(told: dict[str, Any]) -> None:
    assert (told["short"]["tp_size"], told["short"]["dp_size"]) == (4, 2)


def test_one_of_several(told: dict[str, Any]) -> None:
    found = told["apart"]
    assert (found["host"], found["port"], found["dp_size"]) == ("127.0.0.1", 8002, 1)
    assert json.loads(found["kv_events_config"])["endpoint"] == "ipc:///run/1/inproc-e"
    assert found["dp_scheduler"] is None


def test_the_names_are_sglangs(told: dict[str, Any]) -> None:
    looked_for = {
        *(*SGLANG.model, *SGLANG.data, *SGLANG.attention, *SGLANG.chooses, *SGLANG.single),
        *(*HOST, *PORT, *SCHEDULER, EVENTS, *KEYS, *TLS),
        *(name for names in SGLANG.sizes for name in names),
    }
    shortened = {"--tp", "--pp", "--dp"}  # argparse completes them
    assert looked_for - shortened - set(told["names"]) == set()
