"""The local queue in a real vLLM: cached work overtakes, and answers stay as they are."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from preble_plugin.bench.vllm_server import VllmServer
from tests.engines import serving
from tests.engines.client import Client, cached_tokens, tokens
from tests.engines.preble import Scheduler, until
from tests.vllm.preble_servers import BLOCK, TWO

pytestmark = pytest.mark.vllm
RANK = {"X-data-parallel-rank": "0"}
DOCUMENT = tokens(900, 1500)
OTHERS = [tokens(910 + number, 2000) for number in range(7)]
"""Three of them fill the cache of 300 blocks."""
QUESTION = [*DOCUMENT, *tokens(920, 40)]


@serving(TWO)
def test_a_cached_prompt_that_came_last_is_answered_before_others(server: VllmServer) -> None:
    client = Client(server)
    answered: list[str] = []
    lock = threading.Lock()

    def ask(name: str, prompt: list[int]) -> dict[str, Any]:
        answer = client.complete(prompt, RANK)
        with lock:
            answered.append(name)
        return answer

    client.complete(DOCUMENT, RANK)
    # One that reads the document on and on, where it is, keeps it in the cache.
    reading = client.stream(DOCUMENT, max_tokens=3000, ignore_eos=True)
    next(reading)
    with ThreadPoolExecutor(len(OTHERS) + 1) as pool:
        others = [pool.submit(ask, "other", prompt) for prompt in OTHERS]
        until(Scheduler().status, lambda now: now.in_flight > len(others))
        question = pool.submit(ask, "question", QUESTION)
        found = [one.result() for one in (*others, question)]
    reading.close()
    assert "question" in answered[:-2]
    assert cached_tokens(found[-1]) >= len(DOCUMENT) // BLOCK * BLOCK

    alone = [client.complete(prompt, RANK) for prompt in (*OTHERS, QUESTION)]
    assert [one["choices"][0]["text"] for one in found] == [
        one["choices"][0]["text"] for one in alone
    ]


@serving(TWO)
def test_every_rank_says_that_the_queue_is_in_place(server: VllmServer) -> None:
    assert server.log_text().count("what waits is taken up by preble's local queue") == 2
