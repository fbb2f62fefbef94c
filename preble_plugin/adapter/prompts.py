"""A prompt's block keys, as a request to the scheduler carries them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from preble_plugin.core.block_keys import BlockHasher, TokenIdError, Tokens
from preble_plugin.core.events import Namespace
from preble_plugin.service.interface import Unplaced
from preble_plugin.service.metrics import PlacementMetrics

BYTES_PER_TOKEN: Final = 4
"""About what a token is of English text, where there is no tokenizer."""


def prompt_keys(
    hasher: BlockHasher | None,
    tokens: Sequence[int] | None,
    namespace: Namespace,
    features: Sequence[tuple[str, int, int]],
    metrics: PlacementMetrics,
) -> bytes:
    """The keys of a prompt's full blocks; none where it has no token ids, no
    replica is known yet, or a token id cannot be one, which is counted. Such a
    request is placed by load. O(tokens)."""
    if hasher is None or not tokens:
        return b""
    try:
        return hasher.prompt_keys(tokens, namespace, features)
    except TokenIdError:
        metrics.fallback(Unplaced("token_ids"))
        return b""


def text_as_tokens(text: bytes) -> Tokens:
    """Text as it is compared where there is no tokenizer, `BYTES_PER_TOKEN` to a "token":
    prompts with a common start still meet, though no cache event tells of them. O(text)."""
    return np.frombuffer(text, "<u4", len(text) // BYTES_PER_TOKEN)
