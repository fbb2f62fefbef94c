"""What a client sees is what it sees of vLLM's own dispatch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from preble_plugin.bench.vllm_server import VllmServer
from tests.engines import ROOT, EngineRoom, Serving, serving
from tests.engines.client import Client, tokens
from tests.vllm.preble_servers import ONE, OWN, TWO, vllm_requests

pytestmark = pytest.mark.vllm
GOOD: list[dict[str, Any]] = [
    {"prompt": [5]},
    {"prompt": "a"},
    {"prompt": [7] * 31},
    {"prompt": [7] * 32},
    {"prompt": [7] * 33},
    {"prompt": [7] * 8189},
    {"prompt": [[7] * 40, [8] * 40]},
    *({**body, "n": 1, "temperature": 0} for body in vllm_requests(seed=3, count=60)),
]
BAD: list[dict[str, Any]] = [
    {"prompt": ""},
    {"prompt": []},
    {"prompt": [5, 4096]},
    {"prompt": [5, -1]},
    {"prompt": [5, 1 << 31]},
    {"prompt": [5, 1 << 70]},
    {"prompt": [7] * 8193},
    {"prompt": [7] * 200_000},
    {"prompt": [5], "n": 0},
    {"prompt": [5], "cache_salt": ""},
    {"prompt": [5], "max_tokens": -1},
]


class Said(NamedTuple):
    texts: list[list[str]]
    errors: list[tuple[int, Any]]


@pytest.fixture(scope="session")
def say(engine_room: EngineRoom) -> Callable[[Serving], Said]:
    """What a server of a kind says to `GOOD`, one at a time and greedy, and to `BAD`."""
    known: dict[Serving, Said] = {}

    def ask(kind: Serving) -> Said:
        if kind not in known:
            client = Client(engine_room.serve(kind))
            answers = [client.complete(**body) for body in GOOD]
            known[kind] = Said([[one["text"] for one in it["choices"]] for it in answers], [])
            for number, body in enumerate(BAD):
                refused = client.post("/v1/completions", body)
                known[kind].errors.append((refused.status_code, refused.json().get("error")))
                assert client.complete(tokens(number, 50))["choices"]
        return known[kind]

    return ask


@serving(TWO, ONE)
def test_every_request_is_answered_or_refused(
    server_kind: Serving, say: Callable[[Serving], Said]
) -> None:
    said = say(server_kind)
    assert all(all(texts) for texts in said.texts)
    assert [status for status, error in said.errors if error] == [400] * len(BAD)


@serving(OWN)
def test_answers_and_errors_are_vllms_own(
    server_kind: Serving, say: Callable[[Serving], Said]
) -> None:
    ours = [say(TWO), say(ONE)]
    assert ours == [say(server_kind)] * 2


@serving(OWN)
def test_without_the_choice_nothing_of_ours_runs(server: VllmServer) -> None:
    client = Client(server)
    assert client.complete([5])["choices"]
    assert "preble" not in client.get("/metrics").text
    log = server.log_text().replace(str(ROOT), "")  # a clone is named after us
    told = [line for line in log.splitlines() if "non-default args" not in line]
    assert "preble" not in "\n".join(told)
