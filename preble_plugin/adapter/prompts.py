"""A prompt's block keys, as a request to the scheduler carries them."""

from __future__ import annotations

from collections.abc import Sequence

from preble_plugin.core.block_keys import BlockHasher, TokenIdError
from preble_plugin.core.events import Namespace
from preble_plugin.service.interface import Unplaced
from preble_plugin.service.metrics import PlacementMetrics


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
