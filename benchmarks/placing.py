"""What a placement costs, and the same prompts by Dynamo, turn by turn on one tree.

1. The prompt's hash is part of a placement, as a front end pays for it. What is booked
   after the answer is timed apart.
2. After each comes what follows it in life, untimed and told to both: what the replica
   stores and evicts, the first token, and the end of an earlier one: four requests are
   in flight on each replica, and the caches are full.
3. Beside the whole placement the part that Dynamo's call does alone is timed: keys and
   the walk down the tree.
"""

from __future__ import annotations

import gc
import time
from array import array
from collections import deque
from typing import Any

from benchmarks.dynamo import DynamoTree, available
from benchmarks.measure import SEED, summary
from benchmarks.trees import Prompt, Tree
from preble_plugin.core import Finished, FirstToken, Remove, Request, Scheduler, Store, Trust

TURN = 20
"""Prompts that one has before the other has its turn."""
EVICTED_AFTER = 8
"""Prompts of a replica, until what one of them added is evicted."""
IN_FLIGHT = 4
"""Requests of a replica that run when the next is placed, on average."""
OUTPUT_TOKENS = 16


class Fleet:
    """A scheduler whose replicas hold a tree, and Dynamo's tree beside it."""

    def __init__(self, tree: Tree, beside: bool) -> None:
        self.tree = tree
        self.scheduler = Scheduler(tree.block, seed=SEED)
        self.dynamo = DynamoTree(tree.block) if beside else None
        for replica in range(tree.replicas):
            self.scheduler.add_replica(replica, capacity_blocks=tree.blocks // tree.replicas)
            self.scheduler.set_trust(replica, Trust.EXACT)
        self.now = 1.0
        self.placed = 0
        self.worked: list[float] = []
        """Processor seconds of each placement: what others took is not in it."""
        self.booked: list[float] = []
        """Seconds of what is left to do after each answer."""
        self._evictable: list[deque[list[int]]] = [deque() for _ in range(tree.replicas)]
        self._running: deque[tuple[int, str]] = deque()
        self._told: list[tuple[int, bytes]] = []
        for run in tree.runs():
            self._store(run.replica, run.names, run.parent, run.tokens)
            if beside:
                self.tell_dynamo()

    def _store(self, replica: int, names: list[int], parent: int | None, tokens: Any) -> None:
        self.scheduler.apply(replica, [Store(names, parent, tokens, self.tree.block)], self.now)
        if self.dynamo is not None:
            self._told.append((replica, self.dynamo.event(names, parent, tokens)))

    def _remove(self, replica: int, names: list[int]) -> None:
        self.scheduler.apply(replica, [Remove(names)], self.now)
        if self.dynamo is not None:
            self._told.append((replica, self.dynamo.removal(names)))

    def tell_dynamo(self) -> None:
        """Let Dynamo's tree hear what ours has heard."""
        assert self.dynamo is not None
        for replica, event in self._told:
            self.dynamo.apply(replica, event)
        self._told.clear()

    def place(self, prompt: Prompt, tokens: Any = None) -> float:
        """One placement and what follows it; seconds until the answer."""
        tokens = prompt.tokens if tokens is None else tokens
        self.placed += 1
        name = f"request {self.placed}"
        scheduler = self.scheduler
        worked = time.thread_time()
        began = time.perf_counter()
        keys = scheduler.hasher.prompt_keys(tokens)
        placement = scheduler.place(Request(name, keys, len(tokens)), self.now)
        took = time.perf_counter() - began
        self.worked.append(time.thread_time() - worked)
        began = time.perf_counter()
        scheduler.settle()
        self.booked.append(time.perf_counter() - began)
        self._follow_up(name, prompt, int(placement.replica), placement.cached_tokens)
        return took

    def _follow_up(self, name: str, prompt: Prompt, replica: int, cached_tokens: int) -> None:
        tree, blocks = self.tree, len(prompt.tokens) // self.tree.block
        held = cached_tokens // tree.block
        names = prompt.document.names[: prompt.shared_blocks]
        names += tree.names(blocks - prompt.shared_blocks)
        if stored := names[held:]:
            parent = names[held - 1] if held else None
            piece = array("I", prompt.tokens[held * tree.block : blocks * tree.block])
            self._store(replica, stored, parent, piece)
            waiting = self._evictable[replica]
            waiting.append(stored)
            if len(waiting) > EVICTED_AFTER:
                self._remove(replica, waiting.popleft())
        self.now += 0.4 / tree.replicas
        self.scheduler.observe(replica, [FirstToken(name, cached_tokens)], self.now)
        self._running.append((replica, name))
        if len(self._running) > IN_FLIGHT * tree.replicas:
            replica, name = self._running.popleft()
            self.scheduler.observe(replica, [Finished(name, OUTPUT_TOKENS)], self.now)

    def match(self, prompt: Prompt) -> float:
        """Seconds of what Dynamo's call does: keys, and who holds how much of them."""
        scheduler = self.scheduler
        began = time.perf_counter()
        keys = scheduler.hasher.prompt_keys(prompt.tokens)
        scheduler._tree.match(keys, scheduler._columns)
        return time.perf_counter() - began

    def find(self, prompt: Prompt) -> float:
        """Seconds of Dynamo's hash and find."""
        assert self.dynamo is not None
        began = time.perf_counter()
        self.dynamo.find(prompt.tokens)
        return time.perf_counter() - began


def cell(
    shape: str, replicas: int, blocks: int, block: int, tokens: int, runs: int
) -> dict[str, Any]:
    """One cell of the table."""
    fleet = Fleet(Tree(shape, replicas, blocks, block, tokens), beside=available)
    placed: list[float] = []
    matched: list[float] = []
    found: list[float] = []
    for turn in range(0, runs + runs // 5, TURN):
        prompts = [fleet.tree.prompt() for _ in range(TURN)]
        one = [fleet.match(prompt) for prompt in prompts]
        two = [fleet.place(prompt) for prompt in prompts]
        three = [fleet.find(prompt) for prompt in prompts] if available else []
        if available:
            fleet.tell_dynamo()
        if turn >= runs // 5:
            matched += one
            placed += two
            found += three
    gc.collect()
    ours = summary(placed)
    ours["cpu_p99_us"] = summary(fleet.worked[-len(placed) :])["p99_us"]
    ours["booked_p50_us"] = summary(fleet.booked[-len(placed) :])["p50_us"]
    theirs = summary(found) if found else {}
    return {
        "what": "place",
        "tree": shape,
        "block": block,
        "replicas": replicas,
        "blocks": blocks,
        "tokens": tokens,
        **ours,
        "match_p50_us": summary(matched)["p50_us"],
        "dynamo_p50_us": theirs.get("p50_us"),
        "dynamo_p99_us": theirs.get("p99_us"),
        "tree_nodes": fleet.scheduler._tree.nodes,
    }


def packed_tokens(tokens: int, runs: int) -> dict[str, Any]:
    """The same where the front end has tokens packed already, as SGLang's has."""
    fleet = Fleet(Tree("shallow", 8, 100_000, 16, tokens), beside=False)
    for _ in range(runs // 5):
        fleet.place(fleet.tree.prompt())
    seconds = []
    for _ in range(runs):
        prompt = fleet.tree.prompt()
        seconds.append(fleet.place(prompt, array("q", prompt.tokens)))
    return {"what": "place, tokens packed", "tokens": tokens, **summary(seconds)}


def reference(tokens: int, block: int, runs: int) -> dict[str, Any]:
    """The least that plain Python takes to read a list of token ids, and our keys."""
    tree = Tree("shallow", 1, 0, block, tokens)
    hasher = Scheduler(block, seed=SEED).hasher
    packing: list[float] = []
    hashing: list[float] = []
    for _ in range(runs):
        prompt = tree.tokens(tokens).tolist()
        began = time.perf_counter()
        array("I", prompt)
        packed = time.perf_counter()
        hasher.prompt_keys(prompt)
        hashing.append(time.perf_counter() - packed)
        packing.append(packed - began)
    return {
        "what": "reference",
        "tokens": tokens,
        "array_p50_us": summary(packing)["p50_us"],
        "keys_p50_us": summary(hashing)["p50_us"],
    }
