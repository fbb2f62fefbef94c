from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble_plugin.core.block_keys import BlockHasher
from preble_plugin.core.events import Attention, Clear, Remove, Store, namespace
from preble_plugin.feed import wire_form
from preble_plugin.feed.wire import Batch, decode
from preble_plugin.feed.wire_form import Garbled, timestamp
from tests.feed.feed_builders import (
    BLOCK_SIZE,
    CLEARED,
    payload,
    removed_map,
    stored_map,
)
from tests.strategies import wire_events


def decoded(*events: Any) -> Batch:
    batch = decode(payload(*events))
    assert isinstance(batch, Batch)
    return batch


def store_of(event: Any) -> Store:
    (store,) = decoded(event).events
    assert isinstance(store, Store)
    return store


# -- both forms ----------------------------------------------------------------------


def test_a_map_becomes_a_store() -> None:
    expected = Store([b"a", b"b"], b"p", list(range(8)), 4, (), [], 0, "GPU", Attention.FULL)
    assert store_of(stored_map([b"a", b"b"], parent_block_hash=b"p")) == expected


def test_removals_and_clears_are_read() -> None:
    assert decoded(removed_map([1]), CLEARED).events == [Remove([1]), Clear()]


def test_the_tokens_that_a_hash_looks_ahead_at_are_kept_by_block() -> None:
    found = store_of(stored_map([1, 2], lookahead_token_ids=[[4, 5], [8, 9]]))
    assert found.lookahead == [[4, 5], [8, 9]]


def test_negative_hashes_are_hashes() -> None:
    assert store_of(stored_map([-5])).hashes == [-5]


def test_the_batch_carries_the_publishers_time() -> None:
    batch = decode(payload(timestamp=12.5))
    assert batch == Batch(12.5, [], {})


def test_unknown_fields_and_further_elements_are_passed_over() -> None:
    with_more = msgspec.msgpack.encode([1.0, [stored_map([1], locality="LOCAL")], 3, "more"])
    assert isinstance(batch := decode(with_more), Batch)
    assert len(batch.events) == 1


def test_removals_in_a_row_become_one_and_keep_their_place() -> None:
    batch = decoded(removed_map([1]), removed_map([2]), stored_map([3]), removed_map([1]))
    assert batch.events[0] == Remove([1, 2])
    assert batch.events[2] == Remove([1])


def test_removals_of_different_groups_and_media_stay_apart() -> None:
    batch = decoded(removed_map([1]), removed_map([1], group_idx=1), removed_map([1], medium="CPU"))
    assert batch.events == [Remove([1]), Remove([1], 1), Remove([1], 0, "CPU")]


def test_a_missing_medium_and_group_mean_the_first_on_the_gpu() -> None:
    store = store_of(stored_map([1], medium=None, group_idx=None))
    assert (store.medium, store.group) == ("GPU", 0)


def test_pairs_of_tokens_are_read_as_their_first_and_what_follows_each_block() -> None:
    """SGLang under EAGLE."""
    pairs = store_of(stored_map([1, 2], token_ids=[[one, one + 1] for one in range(5, 13)]))
    assert (pairs.tokens, pairs.lookahead) == (list(range(5, 13)), [[9], [13]])


# -- groups --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "attention"),
    [
        (None, Attention.FULL),
        ("full_attention", Attention.FULL),
        ("mla_attention", Attention.FULL),
        ("sink_full_attention", Attention.FULL),
        ("sliding_window", Attention.SLIDING_WINDOW),
        ("sliding_window_mla", Attention.SLIDING_WINDOW),
        ("chunked_local_attention", Attention.SLIDING_WINDOW),
        ("mamba", Attention.MAMBA),
        ("unknown", Attention.FULL),
        ("of_next_year", Attention.FULL),
    ],
)
def test_each_kind_of_group_has_its_attention(kind: str | None, attention: Attention) -> None:
    assert store_of(stored_map([1], kv_cache_spec_kind=kind)).attention is attention


@pytest.mark.parametrize("kind", ["sliding_window", "mamba"])
def test_other_groups_may_name_fewer_blocks_than_they_list(kind: str) -> None:
    event = stored_map(
        [9],
        token_ids=list(range(12)),
        kv_cache_spec_kind=kind,
        group_idx=1,
        kv_cache_spec_sliding_window=8,
        extra_keys=[[["image", 0]]],
    )
    expected = Store([9], None, list(range(12)), 4, (), [], 1, "GPU", store_of(event).attention, 8)
    assert store_of(event) == expected


def test_a_store_whose_blocks_are_all_masked_says_nothing() -> None:
    masked = stored_map([], token_ids=list(range(8)), kv_cache_spec_kind="sliding_window")
    assert decoded(masked) == Batch(1.0, [], {})


@pytest.mark.parametrize("kind", ["full_attention", "of_next_year"])
def test_a_full_attention_store_names_every_block(kind: str) -> None:
    event = stored_map([1], token_ids=list(range(8)), kv_cache_spec_kind=kind)
    assert decoded(event).skipped == {"lengths": 1}


def test_a_partial_block_has_its_own_size() -> None:
    store = store_of(stored_map([1], token_ids=[1, 2], block_size=2))
    assert (store.block_size, list(store.tokens)) == (2, [1, 2])


# -- what sets equal tokens apart --------------------------------------------------------


def test_lora_and_salt_of_a_root_store_are_its_namespace() -> None:
    event = stored_map(
        [1, 2], lora_name="poet", lora_id=3, extra_keys=[["poet", "tenant"], ["poet"]]
    )
    store = store_of(event)
    assert store.namespace == namespace("poet", 3, "tenant")
    assert store.features == []


def test_a_bare_string_without_a_lora_is_the_salt() -> None:
    assert store_of(stored_map([1], extra_keys=[["tenant"]])).namespace == namespace(salt="tenant")


def test_a_salt_that_reads_like_the_lora_is_still_the_salt() -> None:
    event = stored_map([1], lora_name="poet", lora_id=3, extra_keys=[["poet", "poet"]])
    assert store_of(event).namespace == namespace("poet", 3, "poet")


def test_a_store_further_on_has_no_namespace_of_its_own() -> None:
    event = stored_map([2], parent_block_hash=1, lora_name="poet", extra_keys=[["poet"]])
    assert store_of(event).namespace == ()


def test_multimodal_items_are_features_at_their_offset_in_the_block() -> None:
    event = stored_map([1, 2], extra_keys=[[["image", 2]], [["image", -2], ["sound", 1]]])
    expected = [[("image", 2)], [("image", -2), ("sound", 1)]]
    assert store_of(event).features == expected


def test_stored_images_get_the_keys_of_the_prompt_they_came_from() -> None:
    hasher = BlockHasher(BLOCK_SIZE, b"seed")
    event = stored_map(
        [1, 2],
        lora_name="poet",
        lora_id=3,
        extra_keys=[["poet", ["i", 2], "t"], ["poet", ["i", -2]]],
    )
    store = store_of(event)
    stored = hasher.stored_keys(store.tokens, True, store.namespace, store.features)
    prompt = hasher.prompt_keys(list(range(8)), namespace("poet", 3, "t"), [("i", 2, 4)])
    assert stored == prompt


def test_prompt_embeddings_are_told_from_a_prompt_of_tokens() -> None:
    hasher = BlockHasher(BLOCK_SIZE, b"seed")
    store = store_of(stored_map([1], token_ids=[0] * 4, extra_keys=[[b"\x01\x02"]]))
    embedded = hasher.stored_keys(store.tokens, True, store.namespace, store.features)
    assert embedded != hasher.prompt_keys([0] * 4)


@pytest.mark.parametrize("none", [None, [], [None, None], [None, []]])
def test_blocks_with_nothing_to_tell_have_no_features(none: Any) -> None:
    if none == []:
        none = ...
    store = store_of(stored_map([1, 2], extra_keys=none))
    assert (store.features, store.namespace) == ([], ())


# -- bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "cause"),
    [
        (stored_map([1, 2], token_ids=[1, 2, 3, 4]), "lengths"),
        (stored_map([1], token_ids=[1, 2, 3]), "lengths"),
        (stored_map([1, 2], lookahead_token_ids=[[4]]), "lengths"),
        (stored_map([1], block_size=0), "lengths"),
        (stored_map([], token_ids=[1, 2, 3, 4]), "lengths"),
        (stored_map([1, 2], token_ids=list(range(4)), kv_cache_spec_kind="mamba"), "lengths"),
        (stored_map([1], token_ids=[], block_size=0), "no_tokens"),
        (stored_map([1], token_ids=[-1, 2, 3, 4]), "malformed"),
        (stored_map([1], token_ids=[1 << 31, 2, 3, 4]), "malformed"),
        (stored_map([1], token_ids="abcd"), "malformed"),
        (stored_map([1], token_ids=[1.5, 2, 3, 4]), "malformed"),
        (stored_map([1], token_ids=[[1, 2, 3]] * 4), "malformed"),
        (stored_map([1], token_ids=...), "malformed"),
        (stored_map([1], block_size=-4), "malformed"),
        (stored_map([1], group_idx=-1), "malformed"),
        (stored_map([1], medium=7), "malformed"),
        (stored_map([1], kv_cache_spec_sliding_window=-1), "malformed"),
        (stored_map([1.5]), "malformed"),
        (stored_map(["one"]), "malformed"),
        (stored_map([None]), "malformed"),
        (stored_map([1], extra_keys=5), "extra_keys"),
        (stored_map([1], extra_keys=[5]), "extra_keys"),
        (stored_map([1], extra_keys=[[5]]), "extra_keys"),
        (stored_map([1], extra_keys=[None, None]), "extra_keys"),
        (stored_map([1], extra_keys=[["salt", "what"]]), "extra_keys"),
        (stored_map([1], extra_keys=[[["mm", "image", 0]]]), "extra_keys"),
        (stored_map([1], extra_keys=["s" * wire_form.MAX_EXTRA_KEY_BYTES]), "extra_keys"),
        (removed_map(None or [], block_hashes=None), "malformed"),
        (removed_map([1], group_idx=-1), "malformed"),
        ({"type": "BlockMoved", "block_hashes": [1]}, "unknown_type"),
        ({"type": 5}, "malformed"),
        ({"block_hashes": [1]}, "malformed"),
        ([], "malformed"),
        ([5], "malformed"),
        (["BlockStored", [1]], "malformed"),
        ("BlockStored", "malformed"),
        (None, "malformed"),
        (7, "malformed"),
    ],
)
def test_a_bad_event_is_left_out_and_its_batch_goes_on(event: Any, cause: str) -> None:
    batch = decoded(stored_map([8]), event, stored_map([9]))
    assert batch.skipped == {cause: 1}
    assert [list(store.hashes) for store in batch.events if isinstance(store, Store)] == [[8], [9]]


@pytest.mark.parametrize("limit", ["MAX_BLOCKS", "MAX_TOKENS"])
def test_a_giant_event_is_left_out(limit: str) -> None:
    over = getattr(wire_form, limit) + 1
    field = {"MAX_BLOCKS": "block_hashes", "MAX_TOKENS": "token_ids"}[limit]
    assert decoded(stored_map([1], **{field: [1] * over})).skipped == {"too_large": 1}


def test_an_array_that_only_claims_to_be_giant_costs_nothing() -> None:
    claims = payload(stored_map([1], token_ids=0))
    claims = claims.replace(b"token_ids\x00", b"token_ids\xdd\xff\xff\xff\xff")
    assert decode(claims) == Garbled("envelope")


@pytest.mark.parametrize(
    ("garbled", "cause"),
    [
        (b"", "envelope"),
        (b"\xc1", "envelope"),
        (b"not msgpack", "envelope"),
        (payload(stored_map([1]))[:-9], "envelope"),
        (msgspec.msgpack.encode({"ts": 1.0}), "envelope"),
        (msgspec.msgpack.encode([1.0]), "envelope"),
        (msgspec.msgpack.encode(["now", []]), "envelope"),
        (msgspec.msgpack.encode([1.0, {}]), "envelope"),
        (payload(*[None] * (wire_form.MAX_EVENTS + 1)), "envelope"),
        (payload(timestamp=float("nan")), "timestamp"),
        (payload(timestamp=float("inf")), "timestamp"),
        (b"\x92\xcb" + b"\x00" * 8 + b"\x91" * 100_000, "envelope"),
        (bytes(wire_form.MAX_PAYLOAD_BYTES + 1), "too_large"),
    ],
)
def test_a_payload_that_cannot_be_read_is_garbled(garbled: bytes, cause: str) -> None:
    assert decode(garbled) == Garbled(cause)


@given(st.binary(max_size=200))
def test_no_bytes_raise(payload: bytes) -> None:
    assert isinstance(decode(payload), Batch | Garbled)


@given(st.lists(wire_events(), max_size=6), st.data())
def test_no_flipped_byte_raises(events: list[Any], data: st.DataObject) -> None:
    flipped = bytearray(payload(*events))
    at = data.draw(st.integers(0, len(flipped) - 1))
    flipped[at] = data.draw(st.integers(0, 255))
    assert isinstance(decode(bytes(flipped)), Batch | Garbled)


@given(st.lists(wire_events(), max_size=6))
def test_each_event_is_applied_or_counted_whatever_is_beside_it(events: list[Any]) -> None:
    alone = [decoded(event) for event in events]
    together = decoded(*events)
    assert together.skipped == {
        cause: sum(batch.skipped.get(cause, 0) for batch in alone)
        for cause in {cause for batch in alone for cause in batch.skipped}
    }
    stores = [event for batch in alone for event in batch.events if isinstance(event, Store)]
    assert [event for event in together.events if isinstance(event, Store)] == stores


def test_the_time_of_a_payload_is_read_without_its_events() -> None:
    assert timestamp(payload("anything", timestamp=3.0)) == 3.0
    assert timestamp(payload(timestamp=float("nan"))) is None
    assert timestamp(b"\xc1") is None


# -- slower tiers ------------------------------------------------------------------------


def test_a_store_of_a_slower_tier_that_only_names_its_blocks_is_passed_on() -> None:
    store = store_of(
        stored_map(
            [1, 2], token_ids=[], block_size=0, parent_block_hash=None, medium="CPU", group_idx=1
        )
    )
    assert (store.hashes, store.tokens, store.group, store.medium) == ([1, 2], (), 1, "CPU")


@pytest.mark.parametrize(
    ("name", "medium"),
    [("gpu", "GPU"), ("cpu_pinned", "CPU_PINNED"), ("Storage", "STORAGE"), ("cpu", "EXTERNAL")],
)
def test_media_are_named_in_any_case_and_mooncakes_is_the_shared_pool(
    name: str, medium: str
) -> None:
    batch = decoded(stored_map([1], medium=name), removed_map([1], medium=name))
    assert [event.medium for event in batch.events] == [medium] * 2
