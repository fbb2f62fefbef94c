"""The configuration that the real `vllm serve` builds, without serving."""

from __future__ import annotations

import os
from typing import Any

import pytest

from preble_plugin.bench.tiny_model import make_tiny_model
from tests.engines import TINY_MODEL
from tests.engines.preble import RUN_DIR

CONFIG_RUN_DIR = RUN_DIR / "config"
"""What a configuration leaves in the test's own process lives on: apart from real servers."""


def clean_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take back at the end what a configuration leaves in this process."""
    from vllm.v1.engine import core_client

    client = core_client.EngineCoreClient
    monkeypatch.setattr(core_client, "DPLBAsyncMPClient", core_client.DPLBAsyncMPClient)
    make = staticmethod(client.make_async_mp_client)
    monkeypatch.setattr(client, "make_async_mp_client", make)
    for name in [name for name in os.environ if name.startswith("PREBLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREBLE_DP_SCHEDULER", "default")  # restored, whatever the flag writes
    monkeypatch.setenv("PREBLE_CONFIG", "")
    monkeypatch.setenv("PREBLE_SCHEDULER_ADDRESS", "")
    monkeypatch.setenv("PREBLE_RUN_DIR", str(CONFIG_RUN_DIR))
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def engine_args(*arguments: str, size: int = 2) -> Any:
    """What `vllm serve MODEL --data-parallel-size SIZE ARGUMENTS` parses."""
    from vllm import AsyncEngineArgs
    from vllm.entrypoints.cli import serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    model = str(make_tiny_model(TINY_MODEL))
    given = ["--model", model, "--data-parallel-size", str(size), "--max-model-len", "2048"]
    parser = serve.make_arg_parser(FlexibleArgumentParser())
    return AsyncEngineArgs.from_cli_args(parser.parse_args([*given, *arguments]))


def serve_config(*arguments: str, size: int = 2, headless: bool = False) -> Any:
    """The configuration of its only API server, or of a `headless` node."""
    return engine_args(*arguments, size=size).create_engine_config(headless=headless)
