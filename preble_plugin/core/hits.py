"""How much of a prompt a replica need not compute.

1. Full attention uses blocks from the start up to the first hole.
2. Where a replica keeps several attention groups, the usable hit is the largest
   length at which *every* group holds what it needs: full attention all of it,
   a sliding window the last window before its end, a Mamba layer the last state
   (vLLM `v1/core/kv_cache_coordinator.py`, HybridKVCacheCoordinator).
3. The GPU's hit comes first. From its end on, an engine loads what its slower media hold
   between them without a gap. So a block on the GPU behind one that only a slower medium
   has is not found (vLLM `KVConnectorBase_V1.get_num_new_matched_tokens`; SGLang
   `HiRadixCache.match_prefix` and its prefetch from storage).
4. The last token is always computed, so a hit ends before it; with EAGLE or MTP
   the engine computes one more block again.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple, TypeAlias

from preble_plugin.core.events import Attention
from preble_plugin.core.layer import GPU, Layer
from preble_plugin.core.match import Match
from preble_plugin.core.residency import Residency

Loads: TypeAlias = tuple[tuple[str, int], ...]
"""What of a hit is loaded from slower media: their names, and how much of each."""


class Hit(NamedTuple):
    """A usable hit in blocks, and those of them that are loaded."""

    blocks: int
    loads: Loads = ()


def usable(residency: Residency, match: Match, level: int, limit: int, dropped: int = 0) -> Hit:
    """The usable hit of one replica, without the `dropped` blocks at its end that are
    computed again.

    `level` is its prefix without a hole in the main layer (`Match.levels`),
    `limit` the most blocks that may count. O(1) for a replica with one layer,
    else O(path x layers) big-integer operations.
    """
    if not (residency.layers or residency.pool.layers):
        return Hit(max((level if level < limit else limit) - dropped, 0))
    return _over_layers(residency, match, limit, dropped)


def _over_layers(residency: Residency, match: Match, limit: int, dropped: int) -> Hit:
    main = match.bitmap(residency.column, expected=True)
    kinds = {residency.main.group: residency.main}
    on_gpu: dict[int, int] = defaultdict(int, {residency.main.group: main})
    slower: dict[int, int] = defaultdict(int)
    media: list[tuple[str, int]] = []
    # What was dispatched will be stored by every group on the GPU.
    awaited = main & ~match.bitmap(residency.column, expected=False)
    for layer in (*residency.layers.values(), *residency.pool.layers.values()):
        kinds.setdefault(layer.group, layer)
        bitmap = match.bitmap(layer.column, expected=False)
        if layer.medium == GPU:
            on_gpu[layer.group] |= bitmap | awaited
            continue
        slower[layer.group] |= bitmap
        if layer.group == residency.main.group:
            media.append((layer.medium, bitmap))

    first = _longest([(layer, on_gpu[group]) for group, layer in kinds.items()], limit)
    blocks = first
    if slower and first < limit:
        behind = [(layer, slower[group] >> first) for group, layer in kinds.items()]
        blocks += _longest(behind, limit - first)
    blocks = max(blocks - dropped, 0)
    loads: list[tuple[str, int]] = []
    left = (1 << blocks) - (1 << first) if blocks > first else 0
    for medium, bitmap in media:
        if found := bitmap & left:
            loads.append((medium, found.bit_count()))
            left ^= found
    return Hit(blocks, tuple(loads))


def _longest(groups: list[tuple[Layer, int]], limit: int) -> int:
    """The largest number of blocks up to `limit` at which all groups hold what they need."""
    blocks = limit
    while blocks:
        fits = blocks
        for layer, held in groups:
            fits = _fit(layer, held, fits)
        if fits == blocks:
            break
        blocks = fits
    return blocks


def _fit(layer: Layer, held: int, limit: int) -> int:
    """The largest length up to `limit` blocks at which a group holds what it needs."""
    if layer.attention is Attention.FULL:
        return min((~held & (held + 1)).bit_length() - 1, limit)
    window = 1 if layer.attention is Attention.MAMBA else min(layer.window_blocks, limit)
    # Bit i of `runs` says that the `length` blocks up to block i are all held;
    # near the start a shorter run is enough. Doubled until it is the window.
    runs, length = held, 1
    while length < window:
        step = min(length, window - length)
        runs &= runs << step | (1 << step) - 1
        length += step
    runs &= (1 << limit) - 1
    return runs.bit_length()
