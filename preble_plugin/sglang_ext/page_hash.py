"""What SGLang calls a page in its KV events: a signed 64-bit number.

1. A digest runs along the prompt, page by page: sha256 of the digest of the page
   before, then the page's tokens as little-endian u32. EAGLE hashes pairs
   instead: each token with the one after it.
2. Before a prompt's first page stands nothing, or a seed made of its cache salt.
3. A page is called by the first 8 bytes of its digest, big-endian.
4. Some event formats hash that once more, with a seed made of what else keeps
   equal tokens apart in the cache: see `HashForm`.

Follows SGLang 0.5.22 and 0.5.23: mem_cache/cpp_utils/hash_binding.cpp (1),
mem_cache/utils.py `compute_node_event_hash_values` (2), `hash_str_to_int64` (3),
disaggregation/kv_events.py `kv_event_namespace_seed`, `namespaced_block_hash`
and mem_cache/events.py `KVCacheEventRecorder._namespace_seed` (4).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise
from struct import pack
from typing import Final

_SHOWN_BYTES: Final = 8


class HashForm(enum.Enum):
    """What of a request enters the hashes of its pages, beside its tokens and its
    cache salt."""

    DEFAULT = "default"
    """Nothing: an extra key, and the LoRA's id in it, leave no trace. Up to 0.5.22."""
    NAMED_LORA = "named LoRA"
    """The extra key of requests for a LoRA with a name, and of no others. Since
    0.5.23."""
    DYNAMO = "dynamo"
    """The extra key. Since 0.5.22, where `kv_events_config` asks for this format."""


def words(tokens: Sequence[int], bigram: bool = False) -> bytes:
    """A page's tokens as they are hashed. With `bigram`, `tokens` goes one beyond
    the page. Raises `struct.error` for a token id outside u32. O(tokens)."""
    if bigram:
        tokens = [token for pair in pairwise(tokens) for token in pair]
    return pack(f"<{len(tokens)}I", *tokens)


def digest(above: bytes, page: bytes) -> bytes:
    """The 32 bytes of a page's digest: `page` is its `words`, `above` the digest of
    the page before it or, for the first, `salt_seed`. O(bytes)."""
    return sha256(above + page).digest()


def page_hash(page_digest: bytes, seed: bytes) -> int:
    """What events call a page; `seed` is the `namespace_seed`. O(1)."""
    shown = page_digest[:_SHOWN_BYTES]
    if seed:
        shown = sha256(seed + shown).digest()[:_SHOWN_BYTES]
    return int.from_bytes(shown, "big", signed=True)


def salt_seed(salt: str | None) -> bytes:
    """What stands before the first page of a prompt with this cache salt.

    Raises `UnicodeEncodeError` for what has no UTF-8. O(1).
    """
    return b"" if salt is None else sha256(b"sglang-cache-salt-v1\0" + salt.encode()).digest()


def namespace_seed(
    form: HashForm, extra_key: str | None, salt: str | None, lora_named: bool
) -> bytes:
    """What a page's hash is hashed with once more; empty where it is not.

    `extra_key` ends with the LoRA's id, where the request has one; `lora_named`
    says that SGLang knows that LoRA's name. Raises `UnicodeEncodeError` for what
    has no UTF-8. O(1).
    """
    if form is HashForm.NAMED_LORA:
        extra_key, salt = (extra_key if lora_named else None), None
    if form is HashForm.DEFAULT or (extra_key is None and salt is None):
        return b""
    state = sha256(b"sglang-kv-event-namespace-v1")
    for part in (extra_key, salt):
        if part is None:
            state.update(b"\0")
        else:
            encoded = part.encode()
            state.update(b"\1" + len(encoded).to_bytes(8, "little") + encoded)
    return state.digest()
