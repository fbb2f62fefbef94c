"""Tools reach a chat template as each engine's own request model dumps them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from preble_plugin.serve.learning import DIALECTS
from tests.engines import SGLANG_ENVIRONMENT

TOOLS = [
    {"type": "function", "function": {"parameters": {"type": "object"}, "name": "f"}},
    {
        "type": "function",
        "function": {
            "name": "g",
            "description": "d",
            "parameters": {"b": 1, "a": 2},
            "strict": True,
        },
    },
    {"function": {"name": "h", "description": "d", "more": 1}, "defer_loading": True},
    {"type": "function", "function": {"name": "h", "strict": None, "defer_loading": False}},
]


@pytest.mark.parametrize(
    ("engine", "model"),
    [
        pytest.param(
            "vllm",
            "vllm.entrypoints.openai.chat_completion.protocol:ChatCompletionToolsParam",
            marks=pytest.mark.vllm,
        ),
        pytest.param(
            "sglang", "sglang.srt.entrypoints.openai.protocol:Tool", marks=pytest.mark.sglang
        ),
    ],
)
def test_tools_are_shown_as_the_engine_shows_them(engine: str, model: str):
    module, _, name = model.partition(":")
    program = (
        f"import json, sys; from {module} import {name} as Tool; "
        "dumped = [Tool(**one).model_dump() for one in json.loads(sys.argv[1])]; "
        "print(); print(json.dumps(dumped))"
    )
    laid_over = SGLANG_ENVIRONMENT if engine == "sglang" else {}
    environment = {**os.environ, **{k: v for k, v in laid_over.items() if v is not None}}
    ran = subprocess.run(
        [sys.executable, "-c", program, json.dumps(TOOLS)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    told = ran.stdout.strip().splitlines()[-1]
    assert json.dumps(DIALECTS[engine].tools(TOOLS)) == told  # the order of keys counts
