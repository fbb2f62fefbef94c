"""Every `sglang.launch_server` of the examples, launched by SGLang up to its first process.

The model of the tests stands in for theirs, on a CPU; nothing else is changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.examples.example_files import Command, commands
from tests.sglang.launching import Launching

pytestmark = pytest.mark.sglang


@pytest.fixture(scope="module")
def launching() -> Iterator[Launching]:
    with Launching() as process:
        yield process


@pytest.mark.parametrize("command", [one for one in commands() if one.program == "sglang"], ids=str)
def test_sglang_takes_the_command(launching: Launching, command: Command) -> None:
    words = [word for word in command.arguments if not word.startswith("--model-path=")]
    found = launching.ask("serve", words)
    assert found.error is None, found.said[-2000:]
    asked = [word for word in words if word.endswith(("=preble", "/preble.yaml"))]
    assert (found.settings is not None) == bool(asked)
    if "--kv-events-config" in words:
        assert found.events == json.loads(words[words.index("--kv-events-config") + 1])
