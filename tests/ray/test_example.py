"""examples/ray: what Ray's schemas and the router say of it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.config import RequestRouterConfig
from ray.serve.schema import ServeDeploySchema

from preble_plugin.ray_ext.settings import read_settings

EXAMPLES = Path(__file__).parents[2] / "examples" / "ray"


def from_yaml() -> dict[str, Any]:
    config = yaml.safe_load((EXAMPLES / "serve_llm.yaml").read_text())
    ServeDeploySchema.model_validate(config)
    [llm] = config["applications"][0]["args"]["llm_configs"]
    found: dict[str, Any] = llm["deployment_config"]["request_router_config"]
    return found


def from_python() -> dict[str, Any]:
    calls = [
        node
        for node in ast.walk(ast.parse((EXAMPLES / "serve_llm.py").read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "RequestRouterConfig"
    ]
    [call] = calls
    return {one.arg: ast.literal_eval(one.value) for one in call.keywords if one.arg}


@pytest.mark.parametrize("read", [from_yaml, from_python])
def test_the_examples_name_the_router_and_settings_it_takes(read: Any) -> None:
    config = RequestRouterConfig(**read())
    assert config.get_request_router_class().__name__ == "PrebleRouter"
    _, capacity = read_settings(config.request_router_kwargs)
    assert capacity == 120_000


def test_both_examples_say_the_same() -> None:
    assert from_yaml() == from_python()
