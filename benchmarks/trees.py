"""The trees that prompts are placed on, and the prompts.

Three shapes, each of *documents*: what one replica holds of one prompt.

1. `shallow` (tools): 16 tools, each document half a tool's prompt, half its own.
2. `deep` (agents): a document is a chain of up to 1,000 turns, stored turn by turn;
   each tenth turn was retried once, so that the chain parts there.
3. `hot`: all documents begin with the same half, which every replica holds.

A prompt is a document and, for its last eighth, tokens of its own; one in ten is new
altogether. Tokens are ids at random; engine hashes are random 63-bit integers, the same
on every replica.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from benchmarks.measure import VOCABULARY

SHAPES: Final = ("shallow", "deep", "hot")
TOOLS: Final = 16
TURNS: Final = 1_000
RETRIED: Final = 10
"""Of so many turns, one was retried."""
KEPT_DOCUMENTS: Final = 256
"""Documents that prompts are made of; the tree holds more."""
NEW_PROMPTS: Final = 0.1


class Run(NamedTuple):
    """Blocks that a replica stores: engine hashes, parent, tokens."""

    replica: int
    names: list[int]
    parent: int | None
    tokens: array[int]


class Document(NamedTuple):
    """What a replica holds of a prompt, from the start on."""

    replica: int
    names: list[int]
    tokens: array[int]


class Prompt(NamedTuple):
    """Tokens as a front end has them, and what they were made of."""

    tokens: list[int]
    document: Document
    shared_blocks: int


def own_tokens(tokens: int) -> int:
    """Of a prompt, what is not its document's."""
    return tokens // 8


class Tree:
    """A tree of `blocks` resident blocks on `replicas`, for prompts of `tokens`."""

    def __init__(self, shape: str, replicas: int, blocks: int, block: int, tokens: int) -> None:
        self.replicas = replicas
        self.blocks = blocks
        self.block = block
        self.prompt_tokens = tokens
        self._shape = shape
        self._length = max(2, min((tokens - own_tokens(tokens)) // block, blocks // 4))
        self._random = np.random.default_rng(1)
        self._choose = random.Random(1)
        self.documents: list[Document] = []

    def tokens(self, count: int) -> array[int]:
        """So many token ids."""
        return array("I", self._random.integers(0, VOCABULARY, count, dtype=np.uint32).tobytes())

    def names(self, count: int) -> list[int]:
        """So many engine hashes."""
        found: list[int] = self._random.integers(1, 1 << 63, count).tolist()
        return found

    def runs(self) -> Iterator[Run]:
        """What was stored to make the tree, in order."""
        held = number = 0
        half = self._length // 2
        groups = {"shallow": TOOLS, "hot": 1, "deep": 0}[self._shape]
        shared = [self.tokens(half * self.block) for _ in range(groups)]
        heads = [self.names(half) for _ in range(groups)]
        stored: set[tuple[int, int]] = set()
        if self._shape == "hot":
            for replica in range(self.replicas):
                yield Run(replica, heads[0], None, shared[0])
                stored.add((0, replica))
                held += half
        while held < self.blocks:
            replica = number % self.replicas
            if self._shape == "deep":
                made: list[Run] = list(self._chain(replica))
            else:
                group = self._choose.randrange(groups)
                made = []
                head = heads[group]
                if (group, replica) not in stored:
                    stored.add((group, replica))
                    made.append(Run(replica, head, None, shared[group]))
                rest = self.tokens((self._length - half) * self.block)
                made.append(Run(replica, self.names(self._length - half), head[-1], rest))
                if number < KEPT_DOCUMENTS:
                    names = head + made[-1].names
                    self.documents.append(Document(replica, names, shared[group] + rest))
            for run in made:
                held += len(run.names)
                yield run
            number += 1

    def _chain(self, replica: int) -> Iterator[Run]:
        turn = max(1, self._length // TURNS)
        names: list[int] = []
        tokens = array("I")
        for number in range(self._length // turn):
            parent = names[-1] if names else None
            if number % RETRIED == RETRIED - 1:
                yield Run(replica, self.names(turn), parent, self.tokens(turn * self.block))
            run = Run(replica, self.names(turn), parent, self.tokens(turn * self.block))
            names += run.names
            tokens += run.tokens
            yield run
        if len(self.documents) < KEPT_DOCUMENTS:
            self.documents.append(Document(replica, names, tokens))

    def prompt(self) -> Prompt:
        """The next prompt."""
        document = self._choose.choice(self.documents)
        new = self._choose.random() < NEW_PROMPTS
        wanted = (self.prompt_tokens - own_tokens(self.prompt_tokens)) // self.block
        shared = 0 if new else min(wanted, len(document.names))
        tokens = document.tokens[: shared * self.block].tolist()
        tokens += self.tokens(self.prompt_tokens - len(tokens)).tolist()
        return Prompt(tokens, document, shared)
