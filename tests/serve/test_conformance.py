"""The served OpenAPI document, held against the router that serves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from preble_plugin.serve.kinds import KINDS, METHODS
from preble_plugin.serve.openapi import document
from tests.serve.calls import client
from tests.serve.conformance import findings
from tests.serve.conftest import MakeEngine, MakeRouter

DOCUMENT: dict[str, Any] = json.loads(document())


def refuses(path: str, body: Any) -> bool:
    """As an engine that takes just what the document says."""
    posted = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    schema = {**posted["schema"], "components": DOCUMENT["components"]}
    return not jsonschema.Draft202012Validator(schema).is_valid(body)


async def test_schemathesis_finds_nothing(engine: MakeEngine, router: MakeRouter, tmp_path: Path):
    one = await engine(refuses=refuses)
    app = await router(one)
    found = await findings(app, tmp_path, examples=40)
    assert not found, found
    assert {came.path for came in one.asked} == set(KINDS)


def test_the_document_has_all_paths_that_the_router_knows_and_what_they_take():
    documented = {path: {name.upper() for name in of} for path, of in DOCUMENT["paths"].items()}
    assert documented == {path: {*takes} - {"HEAD"} for path, takes in METHODS.items()}


@pytest.mark.parametrize("path", METHODS)
async def test_other_methods_are_told_what_a_path_takes(
    engine: MakeEngine, router: MakeRouter, path: str
):
    one = await engine()
    app = await router(one)
    async with client(app) as session, session.delete(path) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, ", ".join(METHODS[path]))
        assert (await answer.json())["error"]["code"] == "method_not_allowed"
    assert one.came == []


async def test_what_browsers_ask_before_is_for_the_engine(engine: MakeEngine, router: MakeRouter):
    one = await engine()
    app = await router(one, pass_through=False)
    async with client(app) as session:
        for path in METHODS:
            await session.options(path)
    assert [(came.method, came.path) for came in one.came] == [("OPTIONS", p) for p in METHODS]
