"""One pool that all replicas read, which announces no removals."""

from __future__ import annotations

from builders import BLOCK, hashes, place, prompt, scheduler, serve, store, view

from preble_plugin.core import Clear, FirstToken, Remove, Scheduler, Store
from preble_plugin.core.layer import SHARED
from preble_plugin.core.tree_check import check_layers, check_tree

DOCUMENT = prompt(1, 8)


def hits(made: Scheduler, tokens: list[int]) -> list[int]:
    return [one.hit_tokens // BLOCK for one in view(made, tokens).candidates]


def check(made: Scheduler) -> None:
    check_tree(made._tree)
    check_layers(made._tree, made._pool.layers.values())


def test_what_one_replica_stored_all_find_once_it_is_evicted():
    made = scheduler(3)
    made.apply(1, [store(DOCUMENT), store(DOCUMENT, medium=SHARED)], 0.0)
    made.apply(1, [Remove(hashes(DOCUMENT))], 0.0)
    assert hits(made, [*DOCUMENT, 7]) == [8, 8, 8]
    made.apply(0, [store(DOCUMENT[: 2 * BLOCK])], 0.0)
    shown = view(made, [*DOCUMENT, 7]).candidates
    assert [one.hit_tokens // BLOCK for one in shown] == [8, 8, 8]
    assert shown[0].miss_tokens < shown[1].miss_tokens == shown[2].miss_tokens


def test_a_block_that_several_announce_is_held_once():
    made = scheduler(2)
    for replica in (0, 1, 1):
        made.apply(replica, [store(DOCUMENT, medium=SHARED)], 0.0)
    made.apply(0, [Remove(hashes(DOCUMENT)[3:], medium=SHARED)], 0.0)
    assert hits(made, DOCUMENT) == [3, 3]
    check(made)


def test_a_block_that_is_named_before_its_tokens_come_is_held_once():
    made = scheduler(2)
    made.apply(0, [Store(hashes(DOCUMENT), None, (), BLOCK, medium=SHARED)], 0.0)
    made.apply(1, [store(DOCUMENT, medium=SHARED)], 0.0)
    made.apply(0, [store(DOCUMENT)], 0.0)
    made.apply(1, [Remove(hashes(DOCUMENT), medium=SHARED)], 0.0)
    check(made)
    assert hits(made, [*DOCUMENT, 7]) == [8, 0]


def test_a_replica_that_clears_its_cache_or_leaves_leaves_the_pool():
    made = scheduler(2)
    made.apply(0, [store(DOCUMENT, medium=SHARED), Clear()], 0.0)
    made.clear_residency(0)
    made.remove_replica(0)
    assert hits(made, [*DOCUMENT, 7]) == [8]


def test_the_last_replica_takes_the_pool_along():
    made = scheduler(1)
    room = made._tree.max_blocks
    made.apply(0, [store(DOCUMENT, medium=SHARED)], 0.0)
    made.remove_replica(0)
    assert (made.status(0.0).tree_blocks, made._tree.max_blocks) == (0, room)


def test_a_million_blocks_without_a_removal_leave_the_tree_bounded_and_the_gpu_its_room():
    """The tree of 8,000 blocks is filled up by the GPUs' stores while the pool gets
    125 times as many."""
    made = scheduler(2, max_tree_blocks=8_000)
    blocks, each = 1_000_000, 500
    for number in range(blocks // each):
        names = range(number * each, (number + 1) * each)
        tokens = [token % 120_000 for token in range(number * each, (number + 1) * each)] * BLOCK
        made.apply(number % 2, [Store(names, None, tokens, BLOCK, medium=SHARED)], 0.0)
        if number % 125 == 0:
            gpu = prompt(number, 500)
            assert made.apply(number % 2, [store(gpu)], 0.0) == 0
    status = made.status(0.0)
    assert sum(one.resident_blocks for one in status.replicas) == 8_000
    assert status.tree_blocks <= 8_000 + 2_000
    assert 1_000 < len(made._pool.layers[0, SHARED].index) <= 2_000
    assert status.skipped_events == 0
    assert not any(one.missing_blocks for one in status.replicas)
    check(made)


def test_the_least_recently_used_go_first_and_from_the_end_of_a_prompt():
    made = scheduler(1, max_tree_blocks=32 * 4)
    for end in range(1, 9):  # each block after the one before it, as engines store them
        made.apply(0, [store(DOCUMENT[: end * BLOCK], end - 1, medium=SHARED)], 0.0)
    others = [prompt(name, 8) for name in range(2, 5)]
    made.apply(0, [store(one, medium=SHARED) for one in others], 0.0)
    serve(made, "r", [*DOCUMENT, 7], 1.0)  # the oldest is used
    made.apply(0, [Remove(hashes(DOCUMENT))], 2.0)
    made.apply(0, [store(prompt(5, 1), medium=SHARED)], 3.0)
    assert [hits(made, [*one, 7]) for one in (DOCUMENT, *others)] == [[8], [0], [8], [8]]
    check(made)


def test_a_full_tree_leaves_the_pool_without_and_the_replica_exact():
    made = scheduler(1, max_tree_blocks=40)
    made.apply(0, [store(prompt(2, 8), medium=SHARED)], 0.0)
    made.apply(0, [store(prompt(3, 42))], 0.0)
    made.apply(0, [store(prompt(2, 8))], 0.0)
    assert made.apply(0, [store(DOCUMENT, medium=SHARED)], 0.0) == 1
    (status,) = made.status(0.0).replicas
    assert (status.missing_blocks, status.trust) == (0, "exact")


def test_a_hit_from_the_pool_is_audited_by_the_engines_own_number():
    made = scheduler(2)
    made.apply(1, [store(DOCUMENT), store(DOCUMENT, medium=SHARED)], 0.0)
    made.apply(1, [Remove(hashes(DOCUMENT))], 0.0)
    placed = place(made, "r", [*DOCUMENT, 7], fixed_replica=0)
    assert placed.cached_tokens == 8 * BLOCK
    made.observe(0, [FirstToken("r", 7 * BLOCK)], 1.0)
    status = made.status(1.0).replicas[0]
    assert (status.predicted_cached_tokens, status.actual_cached_tokens) == (8 * BLOCK, 7 * BLOCK)
    assert (status.audited_requests, status.exact_audits) == (1, 0)


def test_a_node_that_is_merged_as_it_is_stored_leaves_the_order_of_use():
    made = Scheduler(1, seed=b"seed" * 4)
    made.add_replica(0)
    behind = Store([3, 4], 2, [3, 4], 1)
    shared = [
        Store([3, 4], 2, [3, 4], 1, medium=SHARED),
        Store([21, 22], None, [1, 2], 1, medium=SHARED),
    ]
    made.apply(0, [Store([1, 2], None, [1, 2], 1), shared[0], behind, shared[1]], 0.0)
    check(made)
