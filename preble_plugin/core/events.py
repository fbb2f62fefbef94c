"""What a replica's cache tells the scheduler, without an engine's wire format.

`feed` decodes wire events into these; the simulator emits them directly.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TypeAlias

import msgspec

EngineHash: TypeAlias = int | bytes
"""The engine's name for a block and all before it; opaque to the scheduler."""

Namespace: TypeAlias = tuple[str, ...]
"""What keeps equal tokens apart: LoRA, salt, tenant. Empty for most requests."""

Feature: TypeAlias = tuple[str, int]
"""A multimodal item that touches a block: its identifier, and its first token's
offset from the block's first token (negative if it began in an earlier block)."""


class Attention(enum.StrEnum):
    """How a group of layers reads its cache (vLLM: `kv_cache_spec_kind`)."""

    FULL = "full"
    SLIDING_WINDOW = "sliding_window"
    MAMBA = "mamba"


# NOTE: events hold no cycles and come in thousands, so the collector need not walk them.
class Store(msgspec.Struct, frozen=True, gc=False):
    """Blocks that a replica now holds, in a row.

    `tokens` holds `block_size` ids for each block. `hashes` names the same
    blocks; in groups other than full attention it may name fewer.
    """

    hashes: Sequence[EngineHash]
    parent: EngineHash | None
    """The block before the first of these; None at the start of a prompt."""
    tokens: Sequence[int]
    block_size: int
    namespace: Namespace = ()
    features: Sequence[Sequence[Feature]] = ()
    """Per block, the features in it; empty where no block has any."""
    group: int = 0
    medium: str = "GPU"
    attention: Attention = Attention.FULL
    window_tokens: int | None = None
    lookahead: Sequence[Sequence[int]] = ()
    """Per block, the tokens after it that its hash covers; empty where it covers none."""


class Remove(msgspec.Struct, frozen=True, gc=False):
    """Blocks of which a replica dropped one copy each."""

    hashes: Sequence[EngineHash]
    group: int = 0
    medium: str = "GPU"


class Clear(msgspec.Struct, frozen=True):
    """A replica dropped its whole cache."""


CacheEvent: TypeAlias = Store | Remove | Clear


def namespace(
    lora_name: str | None = None, lora_id: int | None = None, salt: str | None = None
) -> Namespace:
    """The namespace of a request or of a stored block, built the same for both.

    The LoRA id is part of it, so that a name pointed at another adapter starts
    with an empty cache.
    """
    if lora_name is None and not lora_id and not salt:
        return ()
    parts: list[str] = []
    if lora_name is not None or lora_id:
        parts += ["lora", lora_name or "", str(lora_id or 0)]
    if salt:
        parts += ["salt", salt]
    return tuple(parts)
