"""Every `vllm serve` of the examples, parsed by vLLM and made a configuration by it.

The model of the tests stands in for theirs; nothing else is changed, and no model loaded.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from preble_plugin.bench.tiny_model import make_tiny_model
from tests.engines import ROOT, TINY_MODEL
from tests.examples.example_files import Command, commands
from tests.vllm.serve_config import clean_process

pytestmark = pytest.mark.vllm


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_process(monkeypatch)
    monkeypatch.chdir(ROOT)


def parsed(command: Command) -> Any:
    """What the command line makes of it."""
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    model = str(make_tiny_model(TINY_MODEL))
    words = command.arguments
    if "--config" not in words:  # those name this model themselves
        words[0] = model
    parser = FlexibleArgumentParser()
    serve = ServeSubcommand()
    serve.subparser_init(parser.add_subparsers(dest="subparser"))
    found = parser.parse_args(["serve", *words])
    serve.validate(found)
    found.model = found.model_tag or found.model
    return found


@pytest.mark.parametrize("command", [one for one in commands() if one.program == "vllm"], ids=str)
def test_vllm_takes_the_command(command: Command) -> None:
    from vllm import AsyncEngineArgs

    given = parsed(command)
    config = AsyncEngineArgs.from_cli_args(given).create_engine_config(headless=given.headless)
    placed = os.environ["PREBLE_DP_SCHEDULER"] == "preble"
    asked = [word for word in command.words if word.endswith("preble") or "preble.yaml" in word]
    assert placed == bool(asked)
    scheduler = str(config.scheduler_config.scheduler_cls)
    assert scheduler.startswith("preble_plugin.") == placed
    if placed:
        assert config.parallel_config.data_parallel_size > 1
        assert config.kv_events_config.enable_kv_cache_events
    elif "--kv-events-config" in command.words:
        told = json.loads(command.words[command.words.index("--kv-events-config") + 1])
        assert {key: getattr(config.kv_events_config, key) for key in told} == told
