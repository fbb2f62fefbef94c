"""vLLM's own parser on the commands that are run, and on the names that are looked for."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from preble_plugin.run.engines import EVENTS, HOST, KEYS, PORT, SCHEDULER, VLLM
from tests.run.plans import apart, inside
from tests.vllm.serve_config import clean_process

pytestmark = pytest.mark.vllm


@pytest.fixture
def parser(monkeypatch: pytest.MonkeyPatch) -> Any:
    """That of the command `vllm`."""
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    clean_process(monkeypatch)
    made = FlexibleArgumentParser()
    ServeSubcommand().subparser_init(made.add_subparsers(dest="command"))
    return made


def test_one_engine(parser: Any) -> None:
    found = parser.parse_args(inside("vllm", "-tp", "2", "--enforce-eager", port=8123))
    assert (found.model_tag, found.port, found.enforce_eager) == ("M", 8123, True)
    assert (found.tensor_parallel_size, found.data_parallel_size) == (2, 4)
    assert found.dp_scheduler == "preble"


def test_a_model_behind_the_dashes(parser: Any) -> None:
    found = parser.parse_args(inside("vllm", "--model", "X", model=None, host="::1"))
    assert (found.model_tag, found.host, found.data_parallel_size) == ("X", "::1", 8)


def test_one_of_several(parser: Any) -> None:
    plan = apart("vllm", "--host", "0.0.0.0", "--data-parallel-size", "2", separate=True)
    assert plan.host == "0.0.0.0"
    found = parser.parse_args(plan.backends[1].command[4:])
    assert (found.model_tag, found.host, found.port) == ("M", "127.0.0.1", 8002)
    assert found.data_parallel_size == 1
    assert found.kv_events_config.enable_kv_cache_events
    assert found.kv_events_config.endpoint == plan.backends[1].events["endpoint"]  # type: ignore


def test_the_names_are_vllms(parser: Any) -> None:
    (commands,) = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    known = commands.choices["serve"]._option_string_actions
    looked_for = {
        *(*VLLM.model, *VLLM.data, *VLLM.chooses, *VLLM.single, *HOST, *PORT, *SCHEDULER, EVENTS),
        *(KEYS[0], "--hf-token", *(name for names in VLLM.sizes for name in names)),
    }
    assert looked_for - set(known) == set()
    for names in (*VLLM.sizes, VLLM.data):
        assert len({known[name].dest for name in names}) == 1
