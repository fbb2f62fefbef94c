"""SGLang as it is, without our flag: what the other tests here stand on."""

from __future__ import annotations

import random
from typing import Any

import httpx
import pytest

from preble_plugin.bench.server import members
from preble_plugin.bench.sglang_server import PAGE_SIZE, SglangServer
from tests.engines import EngineRoom, SglangServing

pytestmark = pytest.mark.sglang
VOCABULARY = 4096


def prompt(seed: int, pages: int) -> list[int]:
    """Whole pages and one token more: what is cached of it is the pages."""
    rng = random.Random(seed)
    return [rng.randrange(10, VOCABULARY) for _ in range(pages * PAGE_SIZE + 1)]


def complete(server: SglangServer, prompt: list[int], **headers: str) -> dict[str, Any]:
    body = {
        "model": server.served_name,
        "prompt": prompt,
        "max_tokens": 4,
        "ignore_eos": True,
        "temperature": 0,
    }
    answer = httpx.post(
        f"{server.base_url}/v1/completions", json=body, headers=headers, timeout=60, trust_env=False
    )
    assert answer.status_code == 200, answer.text
    usage: dict[str, Any] = answer.json()["usage"]
    return usage


def computed_since(server: SglangServer, before: dict[str, float]) -> dict[str, float]:
    return {rank: tokens - before[rank] for rank, tokens in server.computed_tokens().items()}


def test_it_answers_with_as_many_tokens_as_asked_for(server: SglangServer) -> None:
    assert complete(server, prompt(1, pages=2))["completion_tokens"] == 4


def test_each_rank_counts_what_it_computes(server: SglangServer) -> None:
    before = server.computed_tokens()
    complete(server, prompt(2, pages=2), **{"X-Data-Parallel-Rank": "1"})
    assert computed_since(server, before) == {"0": 0, "1": 2 * PAGE_SIZE + 1}


def test_a_rank_reports_the_pages_it_finds_cached(server: SglangServer) -> None:
    there, elsewhere = {"X-Data-Parallel-Rank": "0"}, {"X-Data-Parallel-Rank": "1"}
    asked = [complete(server, prompt(3, pages=5), **rank) for rank in (there, there, elsewhere)]
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in asked]
    assert cached == [0, 5 * PAGE_SIZE, 0]


def test_without_the_flag_ranks_take_turns_as_sglang_does_it(server: SglangServer) -> None:
    before = server.computed_tokens()
    for seed in range(10, 14):
        complete(server, prompt(seed, pages=3))
    assert computed_since(server, before) == dict.fromkeys(("0", "1"), 2 * (3 * PAGE_SIZE + 1))


def test_without_the_flag_nothing_of_ours_shows(server: SglangServer) -> None:
    info = httpx.get(f"{server.base_url}/server_info", timeout=30, trust_env=False).json()
    ours = [sample.name for sample in server.metrics().samples if sample.name.startswith("preble")]
    assert (info["kv_events_config"], ours) == (None, [])


def test_closing_ends_every_process_it_started(engine_room: EngineRoom) -> None:
    group = engine_room.serve(SglangServing()).pid
    started = len(members(group))
    engine_room.close()
    assert (started > 4, members(group)) == (True, [])  # main, controller, ranks, detokenizer


def test_a_flag_that_sglang_does_not_know_ends_it_with_its_own_words(
    engine_room: EngineRoom,
) -> None:
    said = engine_room.refused(SglangServing(flags=("--no-such-flag",)))
    assert "unrecognized arguments: --no-such-flag" in said
