"""`sglang_ext/page_hash.py` and `tenants.py` against the SGLang installed.

Its own prefix caches are filled, and what their events call the pages is compared
with what we make of the same tokens. Which of the caches and forms a version has
is stated here, and held against it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from itertools import product
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from preble_plugin.core import Finished, Request, Scheduler, Trust
from preble_plugin.feed.wire import Batch, decode
from preble_plugin.sglang_ext.dispatch import looked_up
from preble_plugin.sglang_ext.page_hash import (
    HashForm,
    digest,
    namespace_seed,
    page_hash,
    words,
)
from preble_plugin.sglang_ext.tenants import PLAIN, Tenant, Tenants
from tests.sglang_ext.radix_model import hashes

pytestmark = pytest.mark.sglang

NAMED_LORA_SINCE = (0, 5, 23)

LORA_ID = "1f" * 16
TENANTS = {
    "plain": PLAIN,
    "extra key": Tenant("key"),
    "empty extra key": Tenant(""),
    "salt": Tenant(None, "salt"),
    "both": Tenant("ключ", "соль"),
    "LoRA": Tenant(LORA_ID, None, lora_named=True),
    "LoRA and extra key": Tenant("key" + LORA_ID, None, lora_named=True),
    "LoRA, extra key and salt": Tenant("key" + LORA_ID, "salt", lora_named=True),
}
PAGE_SIZES = (1, 16, 64)
PAGES = 3


def version() -> tuple[int, int, int]:
    import sglang

    major, minor, patch = sglang.__version__.split("+")[0].split(".")[:3]
    return int(major), int(minor), int(patch)


def made(kind: str, page_size: int, dynamo: bool, bigram: bool, lora_names: dict[str, str]) -> Any:
    """An empty prefix cache of SGLang's with events on."""
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams
    from sglang.srt.mem_cache.radix_cache import RadixCache
    from sglang.srt.mem_cache.unified_cache.components import ComponentType
    from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

    has: dict[str, Any] = {"dynamo_kv_event_format": dynamo}
    if version() >= NAMED_LORA_SINCE:
        from sglang.srt.mem_cache.events import KvEventLoraNames

        has["kv_event_lora_names"] = KvEventLoraNames()
        for extra_key, name in lora_names.items():
            has["kv_event_lora_names"].register(
                SimpleNamespace(lora_id=LORA_ID, extra_key=extra_key), name
            )
    if kind != "radix":
        has["tree_components"] = (ComponentType.FULL,)
    params = CacheInitParams(
        disable=False,
        req_to_token_pool=None,
        token_to_kv_pool_allocator=None,
        page_size=page_size,
        is_eagle=bigram,
        enable_kv_cache_events=True,
        **has,
    )
    if kind == "radix":
        return RadixCache(params)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND", kind)
        cache = UnifiedRadixCache(params)
    assert ("Rust" in type(cache.tree_core).__name__) == (kind == "rust")
    return cache


KINDS = ("radix", "python", "rust")
"""The prefix caches, by what they keep their tree in."""


def form_of(dynamo: bool) -> HashForm:
    if dynamo:
        return HashForm.DYNAMO
    return HashForm.NAMED_LORA if version() >= NAMED_LORA_SINCE else HashForm.DEFAULT


def insert(cache: Any, tokens: list[int], tenant: Tenant, cached: int = 0) -> None:
    """Let a tenant store a prompt of which it has `cached` tokens stored."""
    import torch
    from sglang.srt.mem_cache.base_prefix_cache import InsertParams
    from sglang.srt.mem_cache.radix_cache import RadixKey

    key = RadixKey(array("q", tokens), extra_key=tenant.extra_key, cache_salt=tenant.salt)
    cache.insert(InsertParams(key=key, value=torch.arange(len(tokens)), prev_prefix_len=cached))


def prompt(page_size: int, bigram: bool) -> list[int]:
    return [(token * 7919) % 150_000 for token in range(page_size * PAGES + bigram)]


def each_cache(
    check: Callable[[str, bool, Any], None], page_size: int, bigram: bool = False
) -> None:
    lora_names = {
        tenant.extra_key: "adapter"
        for tenant in TENANTS.values()
        if tenant.lora_named and tenant.extra_key is not None
    }
    for kind, dynamo in product(KINDS, (False, True)):
        check(kind, dynamo, made(kind, page_size, dynamo, bigram, lora_names))


def test_the_caches_and_formats_are_those_stated() -> None:
    from sglang.srt.mem_cache import events

    named = hasattr(events, "KvEventLoraNames")
    assert named == (form_of(dynamo=False) is HashForm.NAMED_LORA)


@pytest.mark.parametrize("bigram", [False, True], ids=["tokens", "pairs"])
@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("tenant", TENANTS.values(), ids=TENANTS)
def test_pages_are_called_as_events_call_them(tenant: Tenant, page_size: int, bigram: bool) -> None:
    tokens = prompt(page_size, bigram)

    def check(kind: str, dynamo: bool, cache: Any) -> None:
        insert(cache, tokens[: page_size + bigram], tenant)
        insert(cache, tokens, tenant, cached=page_size)
        stores = [event for event in cache.take_events() if hasattr(event, "parent_block_hash")]
        expected = hashes(form_of(dynamo), tenant, tokens, page_size, bigram)
        found = [name for event in stores for name in event.block_hashes]
        assert found == expected, (kind, dynamo)
        parents = [event.parent_block_hash for event in stores]
        assert parents[0] is None, (kind, dynamo)
        assert set(parents[1:]) <= set(expected), (kind, dynamo)

    each_cache(check, page_size, bigram)


@pytest.mark.parametrize("bigram", [False, True], ids=["tokens", "pairs"])
@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_tenants_are_told_apart_on_the_wire_as_far_as_the_form_does(
    page_size: int, bigram: bool
) -> None:
    tokens = prompt(page_size, bigram)

    def check(kind: str, dynamo: bool, cache: Any) -> None:
        form = form_of(dynamo)
        tenants = Tenants(page_size, form, bigram=bigram)
        cache.take_events()
        owner_of: dict[int, Tenant] = {}
        for tenant in TENANTS.values():
            first = hashes(form, tenant, tokens, page_size, bigram)[0]
            owner = owner_of.setdefault(first, tenant)
            assert tenants.placed(0, tokens, tenant) == (owner is tenant), (kind, dynamo)
            insert(cache, tokens, tenant)
            payload = msgspec.msgpack.encode([1.0, cache.take_events(), 0])
            batch = decode(payload)
            assert isinstance(batch, Batch)
            assert not batch.skipped, (kind, dynamo)
            [store] = tenants.translate(0, batch.events)
            assert store.namespace == owner.namespace, (kind, dynamo, tenant)  # type: ignore[union-attr]
        assert not dynamo or len(owner_of) == len(TENANTS), kind

    each_cache(check, page_size, bigram)


@pytest.mark.parametrize("bigram", [False, True], ids=["tokens", "pairs"])
@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_a_prompt_is_predicted_to_find_what_it_finds(page_size: int, bigram: bool) -> None:
    """Prompts that part at a page's end and around it; a prompt is looked up without its
    last token (`Req.init_next_round_input`)."""
    from sglang.srt.mem_cache.base_prefix_cache import MatchPrefixParams
    from sglang.srt.mem_cache.radix_cache import RadixKey

    shared = prompt(page_size, bigram)
    prompts = [
        [*shared[: page_size * pages + more], *range(200_000 + length, 200_000 + 2 * length)]
        for pages, more, length in product((1, 2, 3), (-1, 0, 1), (1, 2, page_size, 2 * page_size))
    ]

    def check(kind: str, dynamo: bool, cache: Any) -> None:
        cache.take_events()
        # There are no pages of memory behind the cache that it could give back.
        cache.token_to_kv_pool_allocator = SimpleNamespace(free_segment=lambda *_, **__: None)
        made = Scheduler(page_size, lookahead_tokens=int(bigram))
        made.add_replica(0)
        made.set_trust(0, Trust.EXACT)
        for tokens in [*prompts, *prompts]:
            keys = made.hasher.prompt_keys(looked_up(made.hasher, tokens) or ())
            placed = made.place(Request("a", keys, len(tokens)), 0.0)
            made.observe(0, [Finished("a", 0, aborted=True)], 0.0)
            key = RadixKey(array("q", tokens), limit=len(tokens) - 1)
            found = cache.match_prefix(MatchPrefixParams(key=key)).device_prefix_len
            assert placed.cached_tokens == found, (kind, dynamo, len(tokens))
            insert(cache, tokens, PLAIN, cached=found)
            batch = decode(msgspec.msgpack.encode([1.0, cache.take_events(), 0]))
            assert isinstance(batch, Batch)
            assert made.apply(0, batch.events, 0.0) == 0

    each_cache(check, page_size, bigram)


def test_get_hash_str_is_a_chain_of_our_digests() -> None:
    from sglang.srt.mem_cache.utils import get_hash_str

    tokens = prompt(16, False)
    above, chain = b"", []
    for start in range(0, len(tokens), 16):
        above = digest(above, words(tokens[start : start + 16]))
        chain.append(above.hex())
    assert get_hash_str(array("q", tokens), None, page_size=16) == chain


def test_hash_str_to_int64_is_our_page_hash() -> None:
    from sglang.srt.mem_cache.utils import hash_str_to_int64

    for shown in ("00" * 7 + "01", "ff" * 8, "80" + "00" * 7, "7f" + "ff" * 7):
        page_digest = bytes.fromhex(shown + "ab" * 24)
        assert hash_str_to_int64(page_digest.hex()) == page_hash(page_digest, b"")


def test_namespaced_block_hash_is_our_page_hash_with_a_seed() -> None:
    from sglang.srt.disaggregation import kv_events

    page_digest = digest(b"", b"page")
    for extra_key, salt in product([None, "", "a", "ab"], [None, "", "b", "bc"]):
        theirs = kv_events.kv_event_namespace_seed(extra_key=extra_key, cache_salt=salt)
        seed = namespace_seed(HashForm.DYNAMO, extra_key, salt, False)
        assert (theirs or b"") == seed
        assert page_hash(page_digest, seed) == kv_events.namespaced_block_hash(
            page_hash(page_digest, b""), namespace_seed=theirs
        )


@pytest.mark.parametrize(
    ("extra_key", "lora_id", "known_as"),
    [
        (None, None, None),
        ("", None, ""),
        ("key", None, "key"),
        (None, LORA_ID, LORA_ID),
        ("key", LORA_ID, "key" + LORA_ID),
    ],
)
def test_req_ends_the_extra_key_with_the_loras_id_and_has_no_empty_salt(
    extra_key: str | None, lora_id: str | None, known_as: str | None
) -> None:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    tokens = array("q", [1, 2])
    req = Req(
        "rid", "", tokens, SamplingParams(), extra_key=extra_key, lora_id=lora_id, cache_salt=""
    )
    assert (req.extra_key, req.cache_salt) == (known_as, None)
