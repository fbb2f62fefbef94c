"""What belongs to a stored response goes to the engine that stored it."""

from __future__ import annotations

from typing import Any

import pytest

from preble_plugin.serve.app import App
from preble_plugin.serve.stored import StoredResponses
from tests.serve.calls import client
from tests.serve.conftest import MakeEngine, MakeRouter
from tests.serve.recorded_engine import RecordedEngine


async def ask(app: App, method: str, path: str, **body: Any) -> None:
    async with (
        client(app) as session,
        session.request(method, path, json=body or None) as answer,
    ):
        assert answer.status == 200
        await answer.read()


async def stored(app: App, engines: list[RecordedEngine], name: str) -> RecordedEngine:
    """The engine that has answered with the response of this name."""
    async with client(app) as session:
        headers = {"X-Request-Id": name}
        async with session.post("/v1/responses", json={"input": name}, headers=headers) as answer:
            assert (await answer.json())["id"] == f"resp_{name}"
    (keeper,) = [one for one in engines if one.came and one.came[-1].body["input"] == name]
    return keeper


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")],
)
async def test_a_response_is_asked_for_where_it_is(
    engine: MakeEngine, router: MakeRouter, method: str, path: str
):
    engines = [await engine() for _ in range(3)]
    app = await router(*engines)
    for name in ("a", "b", "c"):
        keeper = await stored(app, engines, name)
        before = len(keeper.came)
        for _ in range(2):
            await ask(app, method, f"/v1/responses/resp_{name}{path}")
        assert [one.path for one in keeper.came[before:]] == 2 * [
            f"/v1/responses/resp_{name}{path}"
        ]


async def test_what_goes_on_from_a_response_goes_where_it_is(
    engine: MakeEngine, router: MakeRouter
):
    engines = [await engine() for _ in range(3)]
    app = await router(*engines)
    for name in ("a", "b", "c"):
        keeper = await stored(app, engines, name)
        before = len(keeper.came)
        for _ in range(2):
            await ask(app, "POST", "/v1/responses", input="?", previous_response_id=f"resp_{name}")
        assert len(keeper.came) == before + 2


async def test_where_its_engine_is_gone_another_says_that_it_has_it_not(
    engine: MakeEngine, router: MakeRouter
):
    engines = [await engine() for _ in range(2)]
    app = await router(*engines)
    keeper = await stored(app, engines, "a")
    await keeper.stop()
    (other,) = [one for one in engines if one is not keeper]
    await ask(app, "GET", "/v1/responses/resp_a")
    await ask(app, "POST", "/v1/responses", input="?", previous_response_id="resp_a")
    assert [one.path for one in other.came] == ["/v1/responses/resp_a", "/v1/responses"]


def test_the_oldest_is_forgotten_first():
    responses = StoredResponses(most=2)
    for name in ("a", "b", "a", "c"):
        responses.keep(name, f"at-{name}")
    assert [responses.backend_of(name) for name in ("a", "b", "c")] == ["at-a", None, "at-c"]
    assert responses.backend_of(None) is None


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/", "/v1/models/a", "/a"])
def test_a_path_that_names_no_response_is_nobodys(path: str):
    responses = StoredResponses()
    responses.keep("a", "at-a")
    assert responses.named_in(path) is None
