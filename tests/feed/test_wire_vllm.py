"""What vLLM's own block pool announces gets the keys of the prompts it came from."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from preble_plugin.core.block_keys import BlockHasher
from preble_plugin.core.events import Remove, Store, namespace
from preble_plugin.feed.wire import Batch, decode

pytest.importorskip("vllm.v1.core.block_pool")
pytestmark = pytest.mark.vllm

BLOCK_SIZE = 4
TOKENS = list(range(100, 114))


def announced(*, cached: int = 0, **of_request: Any) -> tuple[Any, Batch]:
    """A request whose full blocks from `cached` on were cached, and the batch that
    vLLM's publisher would send for it."""
    import torch
    from vllm.distributed.kv_events import KVEventBatch
    from vllm.sampling_params import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.request import Request

    init_none_hash(sha256)
    if of_request.pop("embedded", False):
        of_request["prompt_embeds"] = torch.ones(len(TOKENS), 2)
    params: dict[str, Any] = {"prompt_token_ids": TOKENS} | of_request
    if "prompt_embeds" in params:
        params["prompt_token_ids"] = None
    request = Request(
        request_id="r",
        sampling_params=SamplingParams(max_tokens=1),
        pooling_params=None,
        block_hasher=get_request_block_hasher(BLOCK_SIZE, sha256),
        **params,
    )
    pool = BlockPool(16, True, BLOCK_SIZE, enable_kv_cache_events=True)
    pool.cache_full_blocks(
        request,
        pool.get_new_blocks(3),
        num_cached_blocks=cached,
        num_full_blocks=3,
        block_size=BLOCK_SIZE,
        kv_cache_group_id=0,
    )
    events = pool.take_events()
    batch = decode(msgspec.msgpack.Encoder().encode(KVEventBatch(ts=1.0, events=events)))
    assert isinstance(batch, Batch)
    assert batch.skipped == {}
    return request, batch


def stored(batch: Batch) -> Store:
    (store,) = batch.events
    assert isinstance(store, Store)
    return store


def stored_keys(hasher: BlockHasher, store: Store) -> bytes:
    at_start = store.parent is None
    return hasher.stored_keys(store.tokens, at_start, store.namespace, store.features)


def lora() -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name="poet", lora_int_id=3, lora_path="/adapters/poet")


def image(identifier: str, offset: int, length: int) -> Any:
    from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange

    return MultiModalFeatureSpec(
        data=None,
        modality="image",
        identifier=identifier,
        mm_position=PlaceholderRange(offset=offset, length=length),
    )


@pytest.mark.parametrize(
    ("lora_name", "salt", "images"),
    [
        (None, None, []),
        (None, "tenant", []),
        ("poet", None, []),
        ("poet", "poet", []),
        (None, None, [("cat", 2, 5)]),
        ("poet", "tenant", [("cat", 0, 3), ("dog", 3, 8)]),
    ],
)
def test_stored_blocks_get_the_keys_of_their_prompt(
    lora_name: str | None, salt: str | None, images: list[tuple[str, int, int]]
) -> None:
    hasher = BlockHasher(BLOCK_SIZE, b"seed")
    _, batch = announced(
        lora_request=lora() if lora_name else None,
        cache_salt=salt,
        mm_features=[image(*each) for each in images],
    )
    expected = hasher.prompt_keys(
        TOKENS, namespace(lora_name, 3 if lora_name else None, salt), images
    )
    assert stored_keys(hasher, stored(batch)) == expected


def test_blocks_further_on_name_their_parent_and_get_the_keys_of_theirs() -> None:
    hasher = BlockHasher(BLOCK_SIZE, b"seed")
    whole = {"lora_request": lora(), "cache_salt": "tenant"}
    _, first = announced(**whole)
    _, batch = announced(cached=1, **whole)
    store = stored(batch)
    assert store.parent == stored(first).hashes[0]
    assert list(store.hashes) == list(stored(first).hashes[1:])
    keys = hasher.prompt_keys(TOKENS, namespace("poet", 3, "tenant"))
    assert stored_keys(hasher, store) == keys[8:]


def test_prompt_embeddings_are_told_from_any_prompt_of_tokens() -> None:
    hasher = BlockHasher(BLOCK_SIZE, b"seed")
    _, batch = announced(embedded=True)
    store = stored(batch)
    tokens = hasher.stored_keys(store.tokens, True)
    embedded = stored_keys(hasher, store)
    assert all(embedded[at : at + 8] != tokens[at : at + 8] for at in range(0, 24, 8))


def test_evicted_blocks_are_removed_by_the_hashes_they_were_stored_by() -> None:
    from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved

    request, _ = announced()
    removed = [
        BlockRemoved(block_hashes=[each], medium="GPU", group_idx=0)
        for each in request.block_hashes
    ]
    payload = msgspec.msgpack.encode([1.0, [*removed, AllBlocksCleared()], 0])
    batch = decode(payload)
    assert isinstance(batch, Batch)
    assert batch.events[0] == Remove(list(request.block_hashes))
