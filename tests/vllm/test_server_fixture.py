"""The server that the other tests here stand on."""

import httpx
import pytest

from preble_plugin.bench.vllm_server import VllmServer, members
from tests.engines import EngineRoom, Serving

pytestmark = pytest.mark.vllm


def complete(server: VllmServer, tokens: int) -> dict[str, int]:
    body = {
        "model": server.served_name,
        "prompt": "Stan re",
        "max_tokens": tokens,
        "ignore_eos": True,
    }
    answer = httpx.post(f"{server.base_url}/v1/completions", json=body, timeout=60)
    answer.raise_for_status()
    usage: dict[str, int] = answer.json()["usage"]
    return usage


def test_the_server_answers(server: VllmServer) -> None:
    assert complete(server, tokens=4)["completion_tokens"] == 4


def test_the_server_measures_each_rank(server: VllmServer) -> None:
    before = server.metrics().total("vllm:generation_tokens_total")
    complete(server, tokens=6)
    after = server.metrics()
    assert after.total("vllm:generation_tokens_total") - before == 6
    assert list(after.by("engine", "vllm:generation_tokens_total")) == ["0", "1"]


def test_closing_ends_every_process_it_started(engine_room: EngineRoom) -> None:
    group = engine_room.serve(Serving()).pid
    started = len(members(group))
    engine_room.close()
    assert (started > 4, members(group)) == (True, [])  # API servers, engine cores, workers


def test_a_flag_that_vllm_does_not_know_ends_it_with_its_own_words(
    engine_room: EngineRoom,
) -> None:
    said = engine_room.refused(Serving(flags=("--no-such-flag",)))
    assert "--no-such-flag" in said
