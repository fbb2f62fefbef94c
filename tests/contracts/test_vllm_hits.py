"""What vLLM's own scheduler finds cached, and what is predicted: with hashes that look ahead
(0.33 under EAGLE and MTP), and with those that do not.

Events go the whole way, from vLLM's cache manager over the wire's form into the residency.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from preble_plugin.core import Finished, FirstToken, Request, Scheduler, Trust
from preble_plugin.feed.wire import Batch, decode
from preble_plugin.vllm_ext import hooks
from tests.engines.client import tokens
from tests.vllm.in_process import BLOCK, Core

_DRAFT = {
    "disable_eagle_block_drop": False,
    "disable_lookahead_block_hashes": False,
    "num_speculative_tokens_per_batch_size": None,
    "draft_model_config": None,
    "parallel_drafting": False,
}


class _Modules:
    """A draft model's configuration, with three MTP modules."""

    class hf_config:
        num_nextn_predict_layers = 3


SPECULATION: dict[str, Mapping[str, Any] | None] = {
    "none": None,
    "eagle": {**_DRAFT, "method": "eagle", "num_speculative_tokens": 3},
    "mtp": {**_DRAFT, "method": "mtp", "num_speculative_tokens": 1},
    "mtp of three modules": {
        **_DRAFT,
        "method": "mtp",
        "num_speculative_tokens": 3,
        "draft_model_config": _Modules,
    },
    "eagle, hashes as before": {
        **_DRAFT,
        "method": "eagle",
        "num_speculative_tokens": 3,
        "disable_lookahead_block_hashes": True,
    },
}


class Pair:
    """vLLM's scheduler, and ours that places on it."""

    def __init__(self, speculation: Mapping[str, Any] | None, **more: Any) -> None:
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler

        self.core = Core(AsyncScheduler, speculation=speculation, **more)
        dropped, lookahead = hooks.speculation(self.core.config)
        self.made = Scheduler(BLOCK, lookahead_tokens=lookahead)
        self.made.add_replica(0, drop_blocks=dropped)
        self.made.set_trust(0, Trust.EXACT)
        self._asked = 0

    def ask(self, prompt: list[int], **more: Any) -> tuple[int, int]:
        """Tokens that are predicted to be cached, and those that are found."""
        self._asked += 1
        name = str(self._asked)
        features = [
            (one.identifier, one.mm_position.offset, one.mm_position.length)
            for one in more.get("mm_features", ())
        ]
        keys = self.made.hasher.prompt_keys(prompt, (), features)
        placed = self.made.place(Request(name, keys, len(prompt)), self._asked)
        self.core.add(name, prompt, **more)
        self.core.steps()
        for payload in self.core.published:
            batch = decode(payload)
            assert isinstance(batch, Batch)
            assert not batch.skipped
            self.made.apply(0, batch.events, self._asked)
        self.core.published.clear()
        found = self.core.hits[name]
        self.made.observe(0, [FirstToken(name, found), Finished(name, 1)], self._asked)
        self._check()
        return placed.cached_tokens, found

    def _check(self) -> None:
        """Each block that vLLM holds is held, and nothing waits or is missing."""
        status = self.made.status(self._asked + 0.5)
        (replica,) = status.replicas
        held = self.core.scheduler.kv_cache_manager.block_pool.cached_block_hash_to_block
        assert (replica.trust, status.skipped_events) == (Trust.EXACT, 0)
        assert (replica.waiting_stores, replica.missing_blocks) == (0, 0)
        blocks = [len(one) if isinstance(one, dict) else 1 for one in held._cache.values()]
        assert replica.resident_blocks == sum(blocks)


@pytest.fixture(params=SPECULATION)
def speculation(request: pytest.FixtureRequest) -> Mapping[str, Any] | None:
    return SPECULATION[request.param]


@pytest.mark.parametrize("more", [0, 1, 2, 3, 4, BLOCK - 1])
def test_a_prompt_that_comes_again(speculation: Mapping[str, Any] | None, more: int) -> None:
    pair = Pair(speculation)
    prompt = tokens(1, 13 * BLOCK + more)
    for _ in range(3):
        predicted, found = pair.ask(prompt)
        assert predicted == found
    assert found >= 11 * BLOCK


@pytest.mark.parametrize("batch", [8192, 5 * BLOCK], ids=["whole", "in chunks that end there"])
def test_prompts_that_part_where_a_block_ends(
    speculation: Mapping[str, Any] | None, batch: int
) -> None:
    pair = Pair(speculation, max_num_batched_tokens=batch)
    shared = tokens(1, 10 * BLOCK)
    for turn in range(2):
        for branch in range(8):
            predicted, found = pair.ask([*shared, *tokens(100 + branch, 3 * BLOCK)])
            assert predicted == found
            assert found >= (12 if turn else 9 if branch else 0) * BLOCK - BLOCK


def test_prompts_that_part_around_a_blocks_end(speculation: Mapping[str, Any] | None) -> None:
    pair = Pair(speculation)
    shared = tokens(1, 10 * BLOCK + 4)
    for turn in range(2):
        for at in range(-3, 5):
            prompt = [*shared[: 10 * BLOCK + at], *tokens(100 + at, 2 * BLOCK)]
            predicted, found = pair.ask(prompt)
            assert predicted == found, (turn, at)


def test_what_was_generated_is_found_by_the_next_turn(
    speculation: Mapping[str, Any] | None,
) -> None:
    pair = Pair(speculation)
    prompt = tokens(1, 3 * BLOCK - 5)
    for _ in range(4):
        predicted, found = pair.ask(prompt, tokens=2 * BLOCK)
        assert predicted == found
        prompt = [*prompt, *[7] * 2 * BLOCK, *tokens(len(prompt), 9)]
    assert found >= 6 * BLOCK


@pytest.mark.parametrize("offset", [-1, 0, 1, 2, 3, 5])
def test_an_image_that_begins_around_a_blocks_end(
    speculation: Mapping[str, Any] | None, offset: int
) -> None:
    from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
    from vllm.v1.core.encoder_cache_manager import EncoderCacheManager

    pair = Pair(speculation)
    # The model reads text alone; what an image costs its encoder is not looked at.
    pair.core.scheduler.max_num_encoder_input_tokens = 1024
    pair.core.scheduler.encoder_cache_manager = EncoderCacheManager(cache_size=1024)
    prompt = tokens(1, 8 * BLOCK)

    def image(name: str) -> Any:
        place = PlaceholderRange(offset=4 * BLOCK + offset, length=BLOCK)
        return MultiModalFeatureSpec(None, "image", name, place)

    hits = []
    for name in ("a", "a", "b", "b", "a"):
        predicted, found = pair.ask(prompt, mm_features=[image(name)])
        assert predicted == found
        hits.append(found // BLOCK)
    assert hits[1] == hits[3] == hits[4] > hits[2] >= 2
