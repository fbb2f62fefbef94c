"""A replica's cache as counters of whole prefixes: what residency must agree with.

Nothing is shared with the package but the events' vocabulary. A block is a prefix of
tokens and the number of its hash: engines may give equal tokens several.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from preble_plugin.core import Attention

Prefix: TypeAlias = tuple[int, ...]
Block: TypeAlias = tuple[Prefix, int]
LayerKey: TypeAlias = tuple[int, str]

BLOCK = 2
WINDOW_BLOCKS = 2
KINDS = (Attention.FULL, Attention.SLIDING_WINDOW, Attention.MAMBA, Attention.FULL)
"""What each attention group is."""


def hash_of(block: Block) -> int:
    return hash(block) & 0x7FFFFFFFFFFFFFFF


SHARED = "EXTERNAL"


@dataclass
class NaiveLayer:
    held: Counter[Block] = field(default_factory=Counter)
    unplaced: Counter[Block] = field(default_factory=Counter)


@dataclass
class Waiting:
    key: LayerKey
    parent: Block
    blocks: list[Block]
    left: Counter[Block]


class NaiveCache:
    def __init__(self, pool: dict[LayerKey, NaiveLayer]) -> None:
        self.own: dict[LayerKey, NaiveLayer] = {}
        self.pool = pool
        """What all replicas share: it holds a block once, whoever stores it."""
        self.waiting: list[Waiting] = []
        self.main_group: int | None = None

    @property
    def layers(self) -> dict[LayerKey, NaiveLayer]:
        return self.own | self.pool

    def layer(self, key: LayerKey) -> NaiveLayer:
        return (self.pool if key[1] == SHARED else self.own).setdefault(key, NaiveLayer())

    def known(self, block: Block) -> bool:
        return any(layer.held[block] for layer in self.layers.values())

    def blocks(self) -> Iterator[tuple[LayerKey, Block]]:
        """All that the cache has, whether its place is known or not."""
        for key, layer in self.layers.items():
            for counts in (layer.held, layer.unplaced):
                yield from ((key, block) for block in sorted(+counts))
        for one in self.waiting:
            yield from ((one.key, block) for block in sorted(one.left))

    # -- events ------------------------------------------------------------------

    def store(
        self, key: LayerKey, blocks: Sequence[Block], parent: Block | None, told: bool = True
    ) -> None:
        """`told`: the store tells the tokens."""
        layer = self.layer(key)
        by_hash = key[1] != "GPU" and all(map(self.known, blocks))
        if KINDS[key[0]] is not Attention.FULL or by_hash or not told:
            layer.unplaced.update(blocks)
            self._place()
            return
        if self.main_group is None and key[1] == "GPU":
            self.main_group = key[0]
        if parent is not None and not self.known(parent):
            self.waiting.append(Waiting(key, parent, list(blocks), Counter(blocks)))
            return
        removed = self._hold(key, blocks)
        for where, block in removed:
            self.remove(where, block)

    def _hold(self, key: LayerKey, blocks: Sequence[Block]) -> list[tuple[LayerKey, Block]]:
        """Hold blocks and what waited for them; what of these was removed meanwhile."""
        self.layer(key).held.update(blocks)
        removed: list[tuple[LayerKey, Block]] = []
        for one in [one for one in self.waiting if one.parent in blocks]:
            if one in self.waiting:
                self.waiting.remove(one)
                removed += self._hold(one.key, one.blocks)
                removed += [(one.key, gone) for gone in Counter(one.blocks) - one.left]
        self._place()
        return removed

    def _place(self) -> None:
        for layer in self.layers.values():
            for block in list(layer.unplaced):
                if self.known(block):
                    layer.held[block] += layer.unplaced.pop(block)
        for layer in self.pool.values():
            layer.held = Counter(set(+layer.held))
            layer.unplaced = Counter(set(+layer.unplaced) - set(layer.held))

    def remove(self, key: LayerKey, block: Block) -> None:
        layer = self.layers.get(key, NaiveLayer())
        for counts in (layer.held, layer.unplaced):
            if counts[block]:
                counts[block] -= 1
                return
        for one in reversed(self.waiting):
            if one.key == key and one.left[block]:
                one.left -= Counter([block])
                if not one.left:
                    self.waiting.remove(one)
                return

    def clear(self) -> None:
        self.waiting.clear()
        for layer in self.own.values():
            layer.held.clear()
            layer.unplaced.clear()

    # -- hits --------------------------------------------------------------------

    def hit(self, prompt: Prefix) -> int:
        """Blocks: the longest prefix of which every group holds what it needs on the GPU,
        and what they hold of the rest without a gap in slower media."""
        groups = {self.main_group or 0, *(group for group, _ in self.layers)}
        whole = [prompt[:end] for end in range(BLOCK, len(prompt) + 1, BLOCK)]
        for on_gpu in (True, False):
            held: dict[int, set[Prefix]] = {group: set() for group in groups}
            for (group, medium), layer in self.layers.items():
                if (medium == "GPU") is on_gpu:
                    held[group] |= {prefix for prefix, _ in +layer.held}
            whole = whole[_longest(whole, held) :]
        return len(prompt) // BLOCK - len(whole)


def _longest(prefixes: list[Prefix], held: dict[int, set[Prefix]]) -> int:
    """How many of the prefixes, from the first on, all groups hold what they need of."""
    for length in range(len(prefixes), 0, -1):
        needed = {group: prefixes[:length][-NEEDED[KINDS[group]] :] for group in held}
        if all(set(needed[group]) <= held[group] for group in held):
            return length
    return 0


NEEDED = {Attention.FULL: 1 << 30, Attention.SLIDING_WINDOW: WINDOW_BLOCKS, Attention.MAMBA: 1}
"""Blocks before a hit's end that a group must hold."""
