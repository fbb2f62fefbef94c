"""How much a workload shares, measured with an infinite cache: Preble's Table 1.

1. Every prompt goes into a radix tree that forgets nothing, in the order of the list,
   and its answer behind it where a stream is named for it. What the tree already holds
   of a prompt when it comes is *shared*.
2. An edge is a row of pieces of streams: (stream, from, to). Streams differ from their
   first token on, so two edges agree as far as their pieces are equal, plus the shorter
   of two pieces of the same stream: the tree over tokens, exactly, without a token.
3. A node ends where prompts part or where one ends. The *key portion* of a prompt is
   the deepest node of its path with more tokens than all nodes before it together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from preble_plugin.sim.asked import Asked, Part

Piece: TypeAlias = tuple[int, int, int]
"""Tokens [from, to) of a stream: (stream, from, to)."""


class Spread(NamedTuple):
    """A mean and a standard deviation (of the population)."""

    mean: float
    sd: float


class Sharing(NamedTuple):
    """One row of the table. Shares are means over requests, in [0, 1]."""

    requests: int
    prompt_tokens: Spread
    output_tokens: Spread
    shared: float
    """Of a prompt: what an infinite cache holds of it when it comes."""
    key_portion: float
    """Of a prompt: its key portion."""
    key_requests: Spread
    """Requests that pass through a node that is somebody's key portion."""


def table_row(asked: Sequence[Asked]) -> Sharing:
    """The row of a workload. O(parts of all prompts). Raises ValueError for none."""
    if not asked:
        raise ValueError("no requests, nothing to measure")
    tree = PrefixTree()
    prompts = np.array([request.prompt_tokens for request in asked], dtype=np.float64)
    cached = np.empty(len(asked))
    for number, request in enumerate(asked):
        pieces = _pieces(request.prompt)
        cached[number] = tree.add(pieces, counts=1)
        if request.answer is not None:
            # The last token of an answer is never fed back: no cache holds it.
            answered = (request.answer, 0, request.output_tokens - 1)
            tree.add([*pieces, answered] if answered[2] else pieces, counts=0)
    keys = [tree.key_portion(_pieces(request.prompt)) for request in asked]
    portion = np.array([key.tokens if key is not None else 0 for key in keys])
    nodes = {id(key): key.requests for key in keys if key is not None}
    return Sharing(
        requests=len(asked),
        prompt_tokens=_spread(prompts),
        output_tokens=_spread([request.output_tokens for request in asked]),
        shared=float(np.mean(cached / np.maximum(prompts, 1))),
        key_portion=float(np.mean(portion / np.maximum(prompts, 1))),
        key_requests=_spread(list(nodes.values())),
    )


class Node:
    """An edge of the tree and what hangs below it."""

    __slots__ = ("below", "pieces", "requests", "tokens")

    def __init__(self, pieces: list[Piece], requests: int) -> None:
        self.pieces = pieces
        self.tokens = sum(to - start for _, start, to in pieces)
        self.requests = requests
        """Prompts that pass through the whole node."""
        self.below: dict[tuple[int, int], Node] = {}
        """By the first token of each: (stream, from)."""


class PrefixTree:
    """A radix tree without end over pieces of streams."""

    def __init__(self) -> None:
        self._root = Node([], 0)

    def add(self, pieces: Sequence[Piece], counts: int) -> int:
        """Put a prompt in; `counts` is 1 for a request, 0 for what only lies in the cache.
        Returns how many of its first tokens the tree held. O(pieces)."""
        node, rest, held = self._root, list(reversed(pieces)), 0
        while rest:
            child = node.below.get(rest[-1][:2])
            if child is None:
                node.below[rest[-1][:2]] = Node(rest[::-1], counts)
                return held
            agreed = _agree(child.pieces, rest)
            if agreed < child.tokens:
                child = _split(node, child, agreed)
            held += agreed
            child.requests += counts
            node = child
        return held

    def key_portion(self, pieces: Sequence[Piece]) -> Node | None:
        """The key portion of a prompt that was added; None for an empty one. O(pieces)."""
        node, rest, before = self._root, list(reversed(pieces)), 0
        key: Node | None = None
        while rest:
            node = node.below[rest[-1][:2]]
            _agree(node.pieces, rest)
            if node.tokens > before:
                key = node
            before += node.tokens
        return key


def _agree(edge: Iterable[Piece], rest: list[Piece]) -> int:
    """Tokens in which an edge and `rest` (last piece first) agree; takes them off `rest`."""
    agreed = 0
    for stream, start, to in edge:
        if not rest or rest[-1][:2] != (stream, start):
            break
        end = rest.pop()[2]
        agreed += min(to, end) - start
        if end > to:
            # What is left goes on where a longer edge would: maybe in a child.
            rest.append((stream, to, end))
        if end < to:
            break
    return agreed


def _split(parent: Node, child: Node, tokens: int) -> Node:
    """Cut `child` after `tokens` tokens; returns the upper part, which takes its place."""
    upper: list[Piece] = []
    lower: list[Piece] = []
    left = tokens
    for stream, start, to in child.pieces:
        cut = min(start + left, to)
        left -= cut - start
        if cut > start:
            upper.append((stream, start, cut))
        if cut < to:
            lower.append((stream, cut, to))
    top = Node(upper, child.requests)
    parent.below[upper[0][:2]] = top
    child.pieces, child.tokens = lower, child.tokens - tokens
    top.below[lower[0][:2]] = child
    return top


def _pieces(parts: Iterable[Part]) -> list[Piece]:
    return [(stream, 0, tokens) for stream, tokens in parts if tokens]


def _spread(values: Sequence[int] | np.typing.NDArray[np.float64]) -> Spread:
    return Spread(float(np.mean(values)), float(np.std(values))) if len(values) else Spread(0, 0)
