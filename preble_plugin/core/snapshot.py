"""A replica's residency as bytes, to survive the scheduler process.

1. `capture` takes what must be consistent, by reference or by flat copies:
   O(runs of blocks) plus some 20 ns per block.
2. `ResidencyCapture.encode` does the long part and may run in another thread.
3. `restore` builds the residency anew from the bytes: the keys of the paths, and
   for each layer its runs of engine hashes with their place on a path.

It holds block keys (seeded hashes) and engine hashes, never tokens, and can be
read only under the seed it was taken under.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from preble_plugin.core.block_keys import KEY_BYTES, BlockHasher
from preble_plugin.core.events import Attention, EngineHash
from preble_plugin.core.hash_index import Run
from preble_plugin.core.node import Node
from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.residency import Residency

VERSION: Final = 3


class _RunRecord(msgspec.Struct, array_like=True, gc=False):
    path: int
    """Number of the path's last node."""
    depth: int
    hashes: list[EngineHash | None]


class _LayerRecord(msgspec.Struct, array_like=True):
    group: int
    medium: str
    attention: Attention
    window_blocks: int
    runs: list[_RunRecord]
    copies: list[tuple[EngineHash, int]]
    unplaced: list[tuple[EngineHash, int]]
    main: bool


class _Record(msgspec.Struct, array_like=True):
    version: int
    seed_digest: bytes
    block_size: int
    parents: list[int]
    edges: list[bytes]
    layers: list[_LayerRecord]


_DECODER = msgspec.msgpack.Decoder(_Record)


class ResidencyCapture:
    """Residency at one moment. Independent of the tree once made."""

    def __init__(self, record: _Record) -> None:
        self._record = record

    def encode(self) -> bytes:
        """As msgpack. O(blocks); safe in another thread."""
        return msgspec.msgpack.encode(self._record)


def capture(tree: PrefixTree, residency: Residency) -> ResidencyCapture:
    """Take a replica's residency as it is now."""
    numbers: dict[Node, int] = {}
    parents: list[int] = []
    edges: list[bytes] = []

    def number_of(node: Node) -> int:
        above: list[Node] = []
        while node is not tree.root and node not in numbers:
            above.append(node)
            assert node.parent is not None
            node = node.parent
        number = numbers.get(node, -1)
        for one in reversed(above):
            parents.append(number)
            edges.append(one.edge)
            number = numbers[one] = len(edges) - 1
        return number

    def recorded(run: Run) -> _RunRecord:
        last = run.depth + len(run.hashes) - 1
        return _RunRecord(number_of(tree.at(run.node, last)), run.depth, run.hashes[:])

    layers = [
        _LayerRecord(
            layer.group,
            layer.medium,
            layer.attention,
            layer.window_blocks,
            [recorded(run) for run in layer.index.runs()],
            layer.copies.items(),
            layer.unplaced.items(),
            layer is residency.main,
        )
        for layer in residency.all_layers
        if layer is not residency.main or residency.main_known
    ]
    hasher = residency.hasher
    digest = _seed_digest(hasher)
    return ResidencyCapture(_Record(VERSION, digest, hasher.block_size, parents, edges, layers))


def restore(tree: PrefixTree, residency: Residency, snapshot: bytes) -> None:
    """Replace `residency` by what `snapshot` holds. O(blocks + nodes of the tree).

    Raises `ValueError` for bytes that are no snapshot, or one taken under
    another seed, lookahead or block size; the residency is then left as it was.
    """
    try:
        record = _DECODER.decode(snapshot)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a residency snapshot: {error}") from error
    if record.version != VERSION:
        raise ValueError(f"snapshot version {record.version}, this one reads {VERSION}")
    if record.seed_digest != _seed_digest(residency.hasher):
        raise ValueError(
            "the snapshot was taken under another seed or lookahead: let it be rebuilt"
        )
    if record.block_size != residency.hasher.block_size:
        raise ValueError(
            f"the snapshot has blocks of {record.block_size} tokens, "
            f"the engine of {residency.hasher.block_size}"
        )
    ends = _ends(record)
    residency.forget()
    # A column of its own holds the paths until the layers do.
    paths = tree.add_column()
    held: list[tuple[Node, int]] = []
    for number, (parent, edge) in enumerate(zip(record.parents, record.edges, strict=True)):
        node, depth = held[parent] if parent >= 0 else (tree.root, 0)
        if depth == ends[number] - len(edge) // KEY_BYTES:
            above = tree.at(node, depth - 1) if depth else tree.root
            node, blocks, _ = tree.hold(paths, above, depth, edge)
            depth += blocks
        held.append((node, depth))
    for layer in sorted(record.layers, key=lambda one: not one.main):
        residency.restore_layer(
            residency.set_main(layer.group)
            if layer.main
            else residency.layer(layer.group, layer.medium, layer.attention, layer.window_blocks),
            [(*held[run.path], run.depth, run.hashes) for run in layer.runs],
            layer.copies,
            layer.unplaced,
        )
    tree.remove_column(paths)


def _ends(record: _Record) -> list[int]:
    """The depth at which each path ends. Raises `ValueError` on a damaged record."""
    if len(record.parents) != len(record.edges):
        raise ValueError("a damaged snapshot: runs without a parent")
    ends: list[int] = []
    for number, (parent, edge) in enumerate(zip(record.parents, record.edges, strict=True)):
        if not -1 <= parent < number or not edge or len(edge) % KEY_BYTES:
            raise ValueError(f"a damaged snapshot: path {number}")
        ends.append((ends[parent] if parent >= 0 else 0) + len(edge) // KEY_BYTES)
    if sum(layer.main for layer in record.layers) > 1:
        raise ValueError("a damaged snapshot: two main layers")
    if len({(layer.group, layer.medium) for layer in record.layers}) < len(record.layers):
        raise ValueError("a damaged snapshot: a layer twice")
    for layer in record.layers:
        for run in layer.runs:
            if not 0 <= run.path < len(ends):
                raise ValueError("a damaged snapshot: blocks on no path")
            if run.depth < 0 or run.depth + len(run.hashes) > ends[run.path]:
                raise ValueError("a damaged snapshot: blocks beyond their path")
    return ends


def _seed_digest(hasher: BlockHasher) -> bytes:
    secret = hasher.seed + hasher.lookahead_tokens.to_bytes(4, "little")
    return blake2b(secret, digest_size=8, person=b"preble-snapshot").digest()
