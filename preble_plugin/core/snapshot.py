"""A replica's residency as bytes, to survive the scheduler process.

1. `capture` takes what must be consistent, by reference or by flat copies:
   O(runs of blocks) plus one dict copy, a few milliseconds per 100,000 blocks.
2. `ResidencyCapture.encode` does the long part and may run in another thread.
3. `restore` builds the residency anew from the bytes.

It holds block keys (seeded hashes) and engine hashes, never tokens, and can be
read only under the seed it was taken under.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from typing import Final

import msgspec

from preble_plugin.core.block_keys import KEY_BYTES, BlockHasher
from preble_plugin.core.events import Attention, EngineHash
from preble_plugin.core.node import Node
from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.residency import Residency

VERSION: Final = 1


class _LayerRecord(msgspec.Struct, array_like=True):
    group: int
    medium: str
    attention: Attention
    window_blocks: int
    hashes: list[EngineHash]
    nodes: list[int]
    offsets: list[int]
    more_copies: list[tuple[EngineHash, int]]
    main: bool


class _Record(msgspec.Struct, array_like=True):
    version: int
    seed_digest: bytes
    block_size: int
    parents: list[int]
    edges: list[bytes]
    layers: list[_LayerRecord]


_DECODER = msgspec.msgpack.Decoder(_Record)


class _Run:
    __slots__ = ("bitmaps", "edge", "ids", "parent")

    def __init__(self, parent: int, edge: bytes, ids: array[int], bitmaps: list[int]) -> None:
        self.parent = parent
        self.edge = edge
        self.ids = ids
        self.bitmaps = bitmaps


class ResidencyCapture:
    """Residency at one moment. Independent of the tree once made."""

    def __init__(
        self,
        hasher: BlockHasher,
        runs: list[_Run],
        ids: dict[EngineHash, int],
        layers: list[_LayerRecord],
        more_copies: list[dict[int, int]],
    ) -> None:
        self._hasher = hasher
        self._runs = runs
        self._ids = ids
        self._layers = layers
        self._more_copies = more_copies

    def encode(self) -> bytes:
        """As msgpack. O(blocks); safe in another thread."""
        place: dict[int, tuple[int, int]] = {}
        for number, run in enumerate(self._runs):
            for offset, block in enumerate(run.ids):
                place[block] = (number, offset)
        for engine_hash, block in self._ids.items():
            found = place.get(block)
            if found is None:
                continue
            number, offset = found
            for layer, bitmap, more in zip(
                self._layers, self._runs[number].bitmaps, self._more_copies, strict=True
            ):
                if bitmap >> offset & 1:
                    if count := more.pop(block, 0):
                        layer.more_copies.append((engine_hash, count))
                    layer.hashes.append(engine_hash)
                    layer.nodes.append(number)
                    layer.offsets.append(offset)
        return msgspec.msgpack.encode(
            _Record(
                VERSION,
                _seed_digest(self._hasher),
                self._hasher.block_size,
                [run.parent for run in self._runs],
                [run.edge for run in self._runs],
                self._layers,
            )
        )


def capture(tree: PrefixTree, residency: Residency) -> ResidencyCapture:
    """Take a replica's residency as it is now."""
    named = [((residency.main.group, "GPU"), residency.main), *residency.layers.items()]
    columns = [layer.column for _, layer in named]
    numbers: dict[Node, int] = {}
    runs: list[_Run] = []

    def add(node: Node) -> None:
        above: list[Node] = []
        while node is not tree.root and node not in numbers:
            above.append(node)
            assert node.parent is not None
            node = node.parent
        for one in reversed(above):
            assert one.parent is not None
            parent = numbers.get(one.parent, -1)
            numbers[one] = len(runs)
            runs.append(
                _Run(parent, one.edge, one.ids[:], [one.holds(column) for column in columns])
            )

    for column in columns:
        for node in tree.held[column]:
            add(node)
    records = [
        _LayerRecord(
            group,
            medium,
            layer.attention,
            layer.window_blocks,
            [],
            [],
            [],
            [],
            layer is residency.main,
        )
        for (group, medium), layer in named
    ]
    more_copies = [dict(layer.more_copies) for _, layer in named]
    return ResidencyCapture(residency.hasher, runs, dict(residency.ids), records, more_copies)


def restore(residency: Residency, snapshot: bytes) -> None:
    """Replace `residency` by what `snapshot` holds. O(blocks).

    Raises `ValueError` for bytes that are no snapshot, or one taken under
    another seed or block size; the residency is then left as it was.
    """
    try:
        record = _DECODER.decode(snapshot)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a residency snapshot: {error}") from error
    if record.version != VERSION:
        raise ValueError(f"snapshot version {record.version}, this one reads {VERSION}")
    if record.seed_digest != _seed_digest(residency.hasher):
        raise ValueError("the snapshot was taken under another seed: let it be rebuilt")
    if record.block_size != residency.hasher.block_size:
        raise ValueError(
            f"the snapshot has blocks of {record.block_size} tokens, "
            f"the engine of {residency.hasher.block_size}"
        )
    _check(record)
    residency.clear()
    for layer in sorted(record.layers, key=lambda one: not one.main):
        residency.restore_layer(
            residency.main
            if layer.main
            else residency.layer(layer.group, layer.medium, layer.attention, layer.window_blocks),
            layer.group,
            record.parents,
            record.edges,
            list(zip(layer.hashes, layer.nodes, layer.offsets, strict=True)),
            layer.more_copies,
        )


def _check(record: _Record) -> None:
    if len(record.parents) != len(record.edges):
        raise ValueError("a damaged snapshot: runs without a parent")
    for number, (parent, edge) in enumerate(zip(record.parents, record.edges, strict=True)):
        if not -1 <= parent < number or not edge or len(edge) % KEY_BYTES:
            raise ValueError(f"a damaged snapshot: run {number}")
    begun = {
        (parent, edge[:KEY_BYTES])
        for parent, edge in zip(record.parents, record.edges, strict=True)
    }
    if len(begun) != len(record.edges):
        raise ValueError("a damaged snapshot: runs that begin alike")
    held = {node for layer in record.layers for node in layer.nodes}
    if not held.issuperset(set(range(len(record.edges))).difference(record.parents)):
        raise ValueError("a damaged snapshot: a run that nobody holds")
    for layer in record.layers:
        if not len(layer.hashes) == len(layer.nodes) == len(layer.offsets):
            raise ValueError("a damaged snapshot: blocks without a place")
        for node, offset in zip(layer.nodes, layer.offsets, strict=True):
            if not 0 <= node < len(record.edges):
                raise ValueError("a damaged snapshot: a block in no run")
            if not 0 <= offset < len(record.edges[node]) // KEY_BYTES:
                raise ValueError("a damaged snapshot: a block outside its run")


def _seed_digest(hasher: BlockHasher) -> bytes:
    return blake2b(hasher.seed, digest_size=8, person=b"preble-snapshot").digest()
