"""A million random operations, and nothing grows."""

from __future__ import annotations

import random
import tracemalloc

from builders import BLOCK, hashes, prompt, scheduler

from preble_plugin.core import Finished, FirstToken, Remove, Request, Store

OPERATIONS = 1_000_000
CAPACITY = 400


def test_a_million_operations_without_growth():
    """Blocks stored and evicted, requests placed, answered, aborted; each block
    event and each call counts as one operation."""
    choose = random.Random(7)
    made = scheduler(4, capacity=CAPACITY, receipts=100)
    documents = [prompt(name, 40) for name in range(60)]
    names = [hashes(document) for document in documents]
    held: list[dict[int, int]] = [{} for _ in range(4)]
    operations, step, now = 0, 0, 0.0
    marks: list[tuple[int, int]] = []
    while operations < OPERATIONS:
        step += 1
        now += 0.05
        which = choose.randrange(60)
        length = choose.randrange(1, 40)
        tokens = [*documents[which][: length * BLOCK], choose.randrange(1000)]
        request_id = str(step)
        keys = made.hasher.prompt_keys(tokens)
        placed = made.place(Request(request_id, keys, len(tokens)), now)
        replica = int(placed.replica)
        cache = held[replica]
        if choose.random() < 0.1:
            made.observe(replica, [Finished(request_id, 0, aborted=True)], now)
            operations += 2
            continue
        first = 0
        while first < length and cache.get(names[which][first]):
            first += 1
        room = len(cache) + length - first - CAPACITY
        if room > 0:
            inside = set(names[which][:length])
            gone = [name for name in cache if name not in inside][:room]
            made.apply(replica, [Remove(gone)], now)
            for name in gone:
                del cache[name]
            operations += len(gone)
        if first < length:
            stored = names[which][first:length]
            parent = names[which][first - 1] if first else None
            piece = documents[which][first * BLOCK : length * BLOCK]
            made.apply(replica, [Store(stored, parent, piece, BLOCK)], now)
            # A block behind a hole that was filled may be there already.
            for name in stored:
                if name in cache:
                    made.apply(replica, [Remove([name])], now)
                cache[name] = 1
            operations += len(stored)
        made.observe(replica, [FirstToken(request_id, first * BLOCK)], now)
        made.observe(replica, [Finished(request_id, 3)], now)
        operations += 3
        if step % 5000 == 0:
            status = made.status(now)
            marks.append((status.tree_nodes, status.tree_blocks))
            if step == 20_000:
                tracemalloc.start()
                start, _ = tracemalloc.get_traced_memory()
    end, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    half = len(marks) // 2
    for early, late in zip(map(max, *marks[:half]), map(max, *marks[half:]), strict=True):
        assert late <= early * 1.1
    for replica, cache in enumerate(held):
        assert made.status(now).replicas[replica].resident_blocks == len(cache)
    assert end - start < 4_000_000
