"""The shape of events on the wire: structs, bounds, and the reading of them.

1. A payload is msgpack `[timestamp, [event, ...], rank]`.
2. An event is a map tagged by "type", of which the fields that residency needs are read.
3. A payload is read in one go if all its events are good. Otherwise its events are
   read one by one, and a wrong one becomes the cause for which it is left out.

Follows vLLM 0.31 to 0.33, distributed/kv_events.py, and SGLang 0.5.22 and 0.5.23,
srt/disaggregation/kv_events.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta, Raw

from preble_plugin.core.events import EngineHash

MAX_PAYLOAD_BYTES: Final = 32 << 20
MAX_EVENTS: Final = 1 << 18
"""Events in one batch; a batch is what one engine step did."""
MAX_BLOCKS: Final = 1 << 20
"""Blocks in one event: a million tokens at a page size of 1."""
MAX_TOKENS: Final = 1 << 22
"""Tokens in one event."""
MAX_EXTRA_KEY_BYTES: Final = 1 << 16
"""Wire bytes of one block's extra keys; a cache salt is as long as its user likes."""

UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError, MemoryError)
"""What msgspec raises for bad bytes, deep nesting and impossible lengths."""

_NIL: Final = b"\xc0"
_ABSENT: Final = Raw(_NIL)

_Hashes: TypeAlias = Annotated[list[EngineHash], Meta(max_length=MAX_BLOCKS)]
_Token: TypeAlias = Annotated[int, Meta(ge=0, lt=1 << 31)]
_Tokens: TypeAlias = Annotated[list[_Token], Meta(max_length=MAX_TOKENS)]
_TokenPairs: TypeAlias = Annotated[list[tuple[_Token, _Token]], Meta(max_length=MAX_TOKENS)]
_Lookahead: TypeAlias = Annotated[list[list[_Token]], Meta(max_length=MAX_BLOCKS)]
_NotNegative: TypeAlias = Annotated[int, Meta(ge=0)]


class Stored(msgspec.Struct, tag="BlockStored", gc=False):
    """Blocks that were cached; `extra_keys` is left for `block_values` to read."""

    block_hashes: _Hashes
    parent_block_hash: EngineHash | None
    token_ids: _Tokens
    block_size: _NotNegative
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: Raw = _ABSENT
    group_idx: _NotNegative | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: _NotNegative | None = None
    lookahead_token_ids: _Lookahead | None = None
    """Per block, the tokens after it that its hash covers (vLLM 0.33)."""


class Removed(msgspec.Struct, tag="BlockRemoved", gc=False):
    """Blocks of which one copy each is gone."""

    block_hashes: _Hashes
    medium: str | None = None
    group_idx: _NotNegative | None = None


class Cleared(msgspec.Struct, tag="AllBlocksCleared", gc=False):
    """The whole cache is gone."""


WireEvent: TypeAlias = Stored | Removed | Cleared


class Garbled(msgspec.Struct, frozen=True):
    """A payload that cannot be read: `too_large`, `envelope` or `timestamp`."""

    cause: str


class _StoredPairs(msgspec.Struct, tag="BlockStored", gc=False):
    # A store of EAGLE's bigrams: each token with the one after it.
    block_hashes: _Hashes
    parent_block_hash: EngineHash | None
    token_ids: _TokenPairs
    block_size: _NotNegative
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None


class _TypeInMap(msgspec.Struct):
    type: str


class _Stamp(msgspec.Struct, array_like=True):
    ts: float


class _Maps(msgspec.Struct, array_like=True):
    ts: float
    events: Annotated[list[Stored | Removed | Cleared], Meta(max_length=MAX_EVENTS)]


class _Raws(msgspec.Struct, array_like=True):
    ts: float
    events: Annotated[list[Raw], Meta(max_length=MAX_EVENTS)]


_stamp = msgspec.msgpack.Decoder(_Stamp)
_maps = msgspec.msgpack.Decoder(_Maps)
_raws = msgspec.msgpack.Decoder(_Raws)
_map: msgspec.msgpack.Decoder[WireEvent] = msgspec.msgpack.Decoder(Stored | Removed | Cleared)
_map_pairs = msgspec.msgpack.Decoder(_StoredPairs)
_type_in_map = msgspec.msgpack.Decoder(_TypeInMap)
_per_block = msgspec.msgpack.Decoder(Annotated[list[Raw], Meta(max_length=MAX_BLOCKS)])
_values = msgspec.msgpack.Decoder(tuple[Any, ...] | None)


def read(payload: bytes) -> tuple[float, Sequence[WireEvent | str]] | Garbled:
    """A payload's time (seconds since the epoch, the publisher's clock) and its
    events in order, each a struct or the cause for which it is left out.

    Never raises for what is in the payload. O(bytes).
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        return Garbled("too_large")
    events: Sequence[WireEvent | str]
    try:
        maps = _maps.decode(payload)
        seconds, events = maps.ts, maps.events
    except UNREADABLE:
        try:
            raws = _raws.decode(payload)
        except UNREADABLE:
            return Garbled("envelope")
        seconds, events = raws.ts, [_read_event(raw) for raw in raws.events]
    return (seconds, events) if math.isfinite(seconds) else Garbled("timestamp")


def timestamp(payload: bytes) -> float | None:
    """Only the time of a payload; None if it cannot be read. O(1)."""
    try:
        seconds = _stamp.decode(payload).ts
    except UNREADABLE:
        return None
    return seconds if math.isfinite(seconds) else None


def block_values(extra_keys: Raw, blocks: int) -> list[tuple[Any, ...]]:
    """The extra keys of each block; an empty list where no block has any.

    Raises one of `UNREADABLE` where they are not an array of `blocks` arrays or
    nulls, or too many bytes. O(bytes).
    """
    # Most prompts have nothing to tell: a null, or an array of nothing but nulls.
    if extra_keys is _ABSENT:
        return []
    packed = bytes(extra_keys)
    if packed == _NIL or packed == _nulls(blocks):
        return []
    raws = _per_block.decode(packed)
    if len(raws) != blocks:
        raise ValueError(f"extra keys of {len(raws)} blocks, not of {blocks}")
    if any(len(memoryview(raw)) > MAX_EXTRA_KEY_BYTES for raw in raws):
        raise ValueError(f"more than {MAX_EXTRA_KEY_BYTES} bytes of extra keys in a block")
    return [_values.decode(raw) or () for raw in raws]


@lru_cache(maxsize=32)
def _nulls(count: int) -> bytes:
    return msgspec.msgpack.encode((None,) * count)


def _read_event(raw: Raw) -> WireEvent | str:
    try:
        return _map.decode(raw)
    except UNREADABLE as error:
        message = str(error)
    try:
        pairs = _map_pairs.decode(raw)
    except UNREADABLE:
        return _cause(raw, message)
    size = pairs.block_size or 1
    return Stored(
        pairs.block_hashes,
        pairs.parent_block_hash,
        [first for first, _ in pairs.token_ids],
        pairs.block_size,
        pairs.lora_id,
        pairs.medium,
        pairs.lora_name,
        lookahead_token_ids=[[second] for _, second in pairs.token_ids[size - 1 :: size]],
    )


def _cause(raw: Raw, message: str) -> str:
    try:
        kind = _type_in_map.decode(raw).type
    except UNREADABLE:
        return "malformed"
    if kind not in ("BlockStored", "BlockRemoved", "AllBlocksCleared"):
        return "unknown_type"
    return "too_large" if "of length <=" in message else "malformed"
