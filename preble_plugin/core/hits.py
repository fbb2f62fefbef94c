"""How much of a prompt a replica need not compute.

1. Full attention uses blocks from the start up to the first hole.
2. Where a replica keeps several attention groups, the usable hit is the largest
   length at which *every* group holds what it needs: full attention all of it,
   a sliding window the last window before its end, a Mamba layer the last state
   (vLLM `v1/core/kv_cache_coordinator.py`, HybridKVCacheCoordinator).
3. A block in a slower medium counts, with a credit below one.
4. The last token is always computed, so a hit ends before it; with EAGLE or MTP
   the engine computes one more block again.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from preble_plugin.core.events import Attention
from preble_plugin.core.layer import GPU, Layer
from preble_plugin.core.match import Match
from preble_plugin.core.residency import Residency


class Hit(NamedTuple):
    """A usable hit in blocks, and what it is worth in blocks computed."""

    blocks: int
    credit: float


def usable(residency: Residency, match: Match, level: int, limit: int) -> Hit:
    """The usable hit of one replica.

    `level` is its prefix without a hole in the main layer (`Match.levels`),
    `limit` the most blocks that may count. O(1) for a replica with one layer,
    else O(path x layers) big-integer operations.
    """
    if not residency.layers:
        blocks = level if level < limit else limit
        return Hit(blocks, float(blocks))
    return _over_layers(residency, match, limit)


def _over_layers(residency: Residency, match: Match, limit: int) -> Hit:
    main = match.bitmap(residency.column, expected=True)
    groups: dict[int, list[tuple[Layer, int]]] = defaultdict(list)
    groups[residency.main.group].append((residency.main, main))
    # What was dispatched will be stored by every group on the GPU.
    awaited = main & ~match.bitmap(residency.column, expected=False)
    for layer in residency.layers.values():
        bitmap = match.bitmap(layer.column, expected=False)
        if layer.medium == GPU:
            bitmap |= awaited
        groups[layer.group].append((layer, bitmap))

    unions: list[tuple[Layer, int]] = []
    for layers in groups.values():
        held = 0
        for _, bitmap in layers:
            held |= bitmap
        unions.append((layers[0][0], held))

    blocks = limit
    while blocks:
        fits = blocks
        for layer, held in unions:
            fits = _fit(layer, held, fits)
        if fits == blocks:
            break
        blocks = fits

    credit = 0.0
    left = (1 << blocks) - 1
    for layer, bitmap in sorted(groups[residency.main.group], key=lambda one: -one[0].credit):
        credit += (bitmap & left).bit_count() * layer.credit
        left &= ~bitmap
    return Hit(blocks, credit)


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
