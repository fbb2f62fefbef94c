"""LoRA adapters have caches of their own, also when they come and go."""

from __future__ import annotations

import pytest

from preble_plugin.bench.vllm_server import VllmServer
from tests.engines import serving
from tests.engines.client import Client, cached_tokens, tokens
from tests.engines.preble import RUN_DIR, Scheduler
from tests.vllm.lora_adapter import make_adapter
from tests.vllm.preble_servers import LORA

pytestmark = [pytest.mark.vllm, serving(LORA)]


@pytest.fixture(scope="module", autouse=True)
def french() -> None:
    make_adapter(RUN_DIR / "french", seed=1)


def test_an_adapter_does_not_share_the_models_cache(server: VllmServer) -> None:
    client, scheduler = Client(server), Scheduler()
    prompt = tokens(600, 640)
    plain = client.complete(prompt)
    french = [client.complete(prompt, model="french") for _ in range(2)]
    again = client.complete(prompt)
    assert french[0]["choices"][0]["text"] != plain["choices"][0]["text"]
    assert [cached_tokens(one) for one in (*french, again)] == [0, 608, 608]
    predicted = [scheduler.receipt(one["id"]).predicted_cached_tokens for one in (*french, again)]
    assert predicted == [0, 608, 608]


def test_an_adapter_loaded_at_run_time_is_placed_and_may_go(server: VllmServer) -> None:
    client, scheduler = Client(server), Scheduler()
    prompt = tokens(601, 640)
    german = {"lora_name": "german", "lora_path": str(make_adapter(RUN_DIR / "german", seed=2))}
    assert client.post("/v1/load_lora_adapter", german).status_code == 200
    answers = [client.complete(prompt, model="german") for _ in range(2)]
    assert [cached_tokens(one) for one in answers] == [0, 608]
    receipts = [scheduler.receipt(one["id"]) for one in answers]
    assert [one.predicted_cached_tokens for one in receipts] == [0, 608]
    assert len({one.replica for one in receipts}) == 1
    unloaded = client.post("/v1/unload_lora_adapter", {"lora_name": "german"})
    assert unloaded.status_code == 200
    assert client.post("/v1/completions", {"model": "german", "prompt": [5]}).status_code == 404
    # Pointed at another adapter, the name starts with an empty cache.
    other = {"lora_name": "german", "lora_path": str(make_adapter(RUN_DIR / "other", seed=3))}
    assert client.post("/v1/load_lora_adapter", other).status_code == 200
    answer = client.complete(prompt, model="german")
    receipt = scheduler.receipt(answer["id"])
    assert (receipt.predicted_cached_tokens, receipt.actual_cached_tokens) == (0, 0)
    assert client.post("/v1/unload_lora_adapter", {"lora_name": "german"}).status_code == 200
