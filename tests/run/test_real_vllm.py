"""`preble run vllm --separate`: real engines behind the real router, and nothing left."""

from __future__ import annotations

import re
import signal

import httpx
import psutil
import pytest

from preble_plugin.bench.vllm_server import TWO_REPLICAS
from tests.engines import EngineRoom
from tests.engines.preble import RUN_ENVIRONMENT, until
from tests.run.launched import Run

pytestmark = pytest.mark.vllm

PROMPT = "Stan re. " * 60
_UP = re.compile(r"\[router\].* is up: (.*)")


def test_two_engines_answer_through_the_router_and_end_with_it(engine_room: EngineRoom) -> None:
    one_rank = tuple(TWO_REPLICAS[2:])  # without --data-parallel-size 2
    server = engine_room.fresh(Run(base=one_rank, environment=RUN_ENVIRONMENT, separate=True))
    told = until(server.log_text, lambda log: len(_UP.findall(log)) == 2, seconds=120)
    assert not [words for words in _UP.findall(told) if "no cache events" in words]

    def ask() -> dict[str, object]:
        body = {"model": server.served_name, "prompt": PROMPT, "max_tokens": 2}
        answer = httpx.post(f"{server.base_url}/v1/completions", json=body, timeout=60)
        answer.raise_for_status()
        usage: dict[str, object] = answer.json()["usage"]
        return usage

    assert not _cached(ask())
    assert _cached(ask()) > 32  # it went where the first went

    leader = psutil.Process(server.pid)
    started = leader.children(recursive=True)
    assert len(started) >= 6  # two engines and their cores, the router, the leashes
    leader.send_signal(signal.SIGTERM)
    assert leader.wait(60) == 0
    assert not psutil.wait_procs(started, timeout=10)[1]


def _cached(usage: dict[str, object]) -> int:
    details = usage["prompt_tokens_details"]
    assert details is None or isinstance(details, dict)
    return int((details or {}).get("cached_tokens") or 0)
