"""Wire events into core events: one published payload in, a `Batch` out.

1. `wire_form` reads the payload's events. Of a payload that cannot be read the
   whole batch is lost: the stream has to ask for it again.
2. An event that is wrong is left out and counted by cause; the rest goes on.
3. What sets equal tokens apart is carried over: LoRA and cache salt into the
   namespace of a store at the start of a prompt, multimodal items and digests
   of prompt embeddings into the features of each block.
4. Runs of removals (publishers send one per block) become one `Remove`.

Causes of a skip: `unknown_type` (no such event); `malformed` (a field missing,
of another type or out of range); `too_large` (over a bound of `wire_form`);
`lengths` (the tokens, or those looked ahead at, do not fit the blocks);
`no_tokens` (a store on the GPU that only names its blocks: from slower tiers it is
passed on, to be placed by what it names); `extra_keys` (what sets a block apart cannot
be read).

Follows vLLM 0.31 to 0.33: v1/core/block_pool.py and v1/core/kv_cache_utils.py
(`generate_block_hash_extra_keys`, `to_event_extra_keys`).
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import msgspec

from preble_plugin.core.events import (
    Attention,
    CacheEvent,
    Clear,
    EngineHash,
    Feature,
    Remove,
    Store,
    namespace,
)
from preble_plugin.core.layer import GPU, SHARED
from preble_plugin.feed.wire_form import (
    UNREADABLE,
    Cleared,
    Garbled,
    Removed,
    Stored,
    block_values,
    read,
)

_ATTENTION: Final = {
    "full_attention": Attention.FULL,
    "mla_attention": Attention.FULL,
    "sink_full_attention": Attention.FULL,
    "sliding_window": Attention.SLIDING_WINDOW,
    "sliding_window_mla": Attention.SLIDING_WINDOW,
    "chunked_local_attention": Attention.SLIDING_WINDOW,
    "mamba": Attention.MAMBA,
}
"""By vLLM's `KVCacheSpecKind`. A kind that is not named, or not known, is read as
full attention: its store must then name every block it lists tokens for."""

_FULL: Final = Attention.FULL
_PROMPT_EMBEDDING: Final = "prompt_embeds\0"


class Batch(msgspec.Struct, frozen=True):
    """One payload, decoded."""

    timestamp: float
    """When the publisher made it: seconds since the epoch, on its clock."""
    events: list[CacheEvent]
    skipped: dict[str, int]
    """Events left out, by cause."""


class _SkippedError(Exception):
    """This event is left out; the argument is the cause."""


def decode(payload: bytes) -> Batch | Garbled:
    """Decode one payload. Never raises for what is in it.

    O(bytes): 2 million blocks of 16 tokens a second in stores of 128 blocks,
    450 thousand in stores of one.
    """
    found = read(payload)
    if isinstance(found, Garbled):
        return found
    timestamp, wire_events = found
    events: list[CacheEvent] = []
    skipped: Counter[str] = Counter()
    removed: list[EngineHash] = []
    removed_from: tuple[int, str] | None = None
    for event in wire_events:
        if isinstance(event, Stored):
            try:
                store = _store(event)
            except _SkippedError as error:
                skipped[str(error)] += 1
                continue
            if store is not None:
                removed_from = None
                events.append(store)
        elif isinstance(event, Removed):
            place = (event.group_idx or 0, _medium(event.medium))
            if place == removed_from:
                removed += event.block_hashes
            else:
                removed, removed_from = event.block_hashes, place
                events.append(Remove(removed, *place))
        elif isinstance(event, str):
            skipped[event] += 1
        elif isinstance(event, Cleared):
            removed_from = None
            events.append(Clear())
    return Batch(timestamp, events, dict(skipped))


def _store(event: Stored) -> Store | None:
    blocks = len(event.block_hashes)
    kind = event.kv_cache_spec_kind
    attention = _FULL if kind is None else _ATTENTION.get(kind, _FULL)
    tokens = len(event.token_ids)
    medium = _medium(event.medium)
    if blocks and not tokens:
        if medium == GPU:
            raise _SkippedError("no_tokens")
        return Store(
            event.block_hashes,
            event.parent_block_hash,
            (),
            event.block_size,
            group=event.group_idx or 0,
            medium=medium,
            attention=attention,
            window_tokens=event.kv_cache_spec_sliding_window,
        )
    listed, rest = divmod(tokens, event.block_size or 1)
    if rest or listed < blocks or (listed > blocks and attention is _FULL):
        raise _SkippedError("lengths")
    if not blocks:
        return None
    lookahead = event.lookahead_token_ids or ()
    if lookahead and len(lookahead) != blocks:
        raise _SkippedError("lengths")
    at_start = event.parent_block_hash is None
    lora_name = event.lora_name if isinstance(event.lora_name, str) else None
    features: list[list[Feature]] = []
    salt: str | None = None
    try:
        values = block_values(event.extra_keys, blocks)
    except UNREADABLE:
        raise _SkippedError("extra_keys") from None
    if values:
        features, salt = _what_sets_apart(values, lora_name, at_start)
        if listed > blocks:
            # Which of the listed blocks are named is not said: these are found by hash.
            features = []
    return Store(
        event.block_hashes,
        event.parent_block_hash,
        event.token_ids,
        event.block_size,
        namespace(lora_name, event.lora_id, salt) if at_start else (),
        features,
        event.group_idx or 0,
        medium,
        attention,
        event.kv_cache_spec_sliding_window,
        lookahead,
    )


def _medium(name: str | None) -> str:
    """The medium by core's name for it. Engines write them in capitals; vLLM's
    MooncakeStoreConnector alone says `cpu`, of the pool that all ranks share."""
    if not name:
        return GPU
    return SHARED if name == "cpu" else name.upper()


def _what_sets_apart(
    values: list[tuple[Any, ...]], lora_name: str | None, at_start: bool
) -> tuple[list[list[Feature]], str | None]:
    """Features per block (empty where no block has any) and the cache salt.

    A block's keys come in this order: the LoRA's name if the event has one,
    `(identifier, offset)` pairs, on a prompt's first block its cache salt, the
    digest of its prompt embeddings.
    """
    features: list[list[Feature]] = []
    salt: str | None = None
    for block, keys in enumerate(values):
        found: list[Feature] = []
        for place, key in enumerate(keys):
            match key:
                case str() if place == 0 and lora_name is not None:
                    pass
                case str() if block == 0 and at_start and salt is None:
                    salt = key
                case [str() as identifier, int() as offset]:
                    found.append((identifier, offset))
                case bytes():
                    found.append((_PROMPT_EMBEDDING + key.hex(), 0))
                case _:
                    raise _SkippedError("extra_keys")
        features.append(found)
    return (features if any(features) else []), salt
