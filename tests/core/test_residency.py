from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from builders import BLOCK, hashes, place, prompt, scheduler, store

from preble_plugin.core import (
    Attention,
    BlockHasher,
    Clear,
    Finished,
    FirstToken,
    Remove,
    Scheduler,
    Store,
    Trust,
)
from preble_plugin.core.hits import Hit, usable
from preble_plugin.core.orphans import ORPHAN_STORES
from preble_plugin.core.pool import Pool
from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.residency import (
    MISSING_BLOCKS,
    UNPLACED_BLOCKS,
    EventOutcome,
    Residency,
)
from preble_plugin.core.snapshot import capture, restore
from preble_plugin.core.status import ReplicaStatus
from preble_plugin.core.tree_check import check_residency, check_tree


class Cache:
    """One replica's residency and the hit a prompt has there."""

    def __init__(self, max_tree_blocks: int = 1 << 30) -> None:
        self.tree = PrefixTree(max_tree_blocks)
        self.hasher = BlockHasher(BLOCK, b"seed")
        self.residency = Residency(self.tree, self.hasher, Pool(self.tree, 1000))

    def apply(self, *events: object) -> list[EventOutcome]:
        applied = [self.residency.apply(event) for event in events]  # type: ignore[arg-type]
        check_tree(self.tree)
        check_residency(self.tree, self.residency)
        return applied

    def hit(self, tokens: list[int], limit: int | None = None) -> int:
        return self.found(tokens, limit).blocks

    def found(self, tokens: list[int], limit: int | None = None) -> Hit:
        match = self.tree.match(self.hasher.prompt_keys(tokens), 1 << self.residency.column)
        level = match.levels[-1][1] if match.levels else 0
        most = limit if limit is not None else len(tokens) // BLOCK
        return usable(self.residency, match, level, most)


def test_a_removed_block_in_the_middle_ends_the_hit_there():
    cache, tokens = Cache(), prompt(1, 6)
    cache.apply(store(tokens), Remove([hashes(tokens)[3]]))
    assert cache.hit(tokens) == 3


def test_a_removed_block_that_is_stored_again_closes_the_hole():
    cache, tokens = Cache(), prompt(1, 6)
    cache.apply(store(tokens), Remove([hashes(tokens)[3]]))
    again = store(tokens, 3)
    cache.apply(Store(again.hashes[:1], again.parent, again.tokens[:BLOCK], BLOCK))
    assert cache.hit(tokens) == 6


def test_a_block_held_twice_is_gone_when_both_copies_are():
    cache, tokens = Cache(), prompt(1, 3)
    cache.apply(store(tokens), store(tokens, 2), Remove([hashes(tokens)[2]]))
    assert cache.hit(tokens) == 3
    cache.apply(Remove([hashes(tokens)[2]]))
    assert cache.hit(tokens) == 2


def test_two_hashes_of_the_same_tokens_are_two_copies():
    cache, tokens = Cache(), prompt(1, 2)
    first = store(tokens)
    second = Store([5, 6], None, first.tokens, BLOCK)
    cache.apply(first, second, Remove(first.hashes))
    assert cache.hit(tokens) == 2
    cache.apply(Remove([5, 6]))
    assert cache.hit(tokens) == 0


def test_a_store_waits_for_its_parent():
    cache, tokens = Cache(), prompt(1, 6)
    cache.apply(store(tokens, 4))
    assert cache.hit(tokens) == 0
    first = store(tokens)
    cache.apply(Store(first.hashes[:4], None, first.tokens[: 4 * BLOCK], BLOCK))
    assert cache.hit(tokens) == 6


def test_what_was_removed_while_it_waited_is_not_held_when_its_parent_comes():
    cache, tokens = Cache(), prompt(1, 4)
    first = store(tokens)
    cache.apply(store(tokens, 2), Remove([hashes(tokens)[3]]))
    cache.apply(Store(first.hashes[:2], None, first.tokens[: 2 * BLOCK], BLOCK))
    assert cache.hit(tokens) == 3


def test_stores_that_wait_for_ever_are_bounded_and_counted():
    cache = Cache()
    for orphan in range(ORPHAN_STORES + 10):
        cache.residency.apply(Store([2 * orphan], -orphan - 1, prompt(orphan, 1), BLOCK))
    assert cache.residency.skipped["unknown_parent"] == 10
    assert cache.tree.blocks == 0


def test_stores_that_wait_under_one_parent_are_bounded_too():
    cache = Cache()
    for orphan in range(ORPHAN_STORES + 10):
        cache.residency.apply(Store([2 * orphan], -1, prompt(orphan, 1), BLOCK))
    assert cache.residency.skipped["unknown_parent"] == 10


def test_a_hash_that_moves_is_a_copy_of_what_it_named_first():
    cache, first, second = Cache(), prompt(1, 1), prompt(2, 1)
    cache.apply(Store([5], None, first, BLOCK), Store([5], None, second, BLOCK))
    assert (cache.hit(first), cache.hit(second)) == (1, 0)
    cache.apply(Remove([5]), Remove([5]))
    assert (cache.hit(first), cache.tree.blocks, cache.residency.copies) == (0, 0, 0)


def test_a_name_known_to_one_tier_alone_is_forgotten_with_its_block():
    cache, tokens = Cache(), prompt(1, 1)
    cache.apply(
        Store([1], None, tokens, BLOCK),
        Store([2], None, tokens, BLOCK, medium="CPU"),
        Remove([2], medium="CPU"),
        Remove([1]),
    )
    assert cache.residency.hash_count == 0


def test_a_window_of_any_length_is_looked_at_in_bounded_work():
    cache, tokens = Cache(), prompt(1, 6)
    cache.apply(store(tokens), sliding(tokens, range(6), window=2**60))
    assert cache.hit(tokens) == 6


def test_clear_empties_the_cache_and_frees_the_tree():
    cache = Cache()
    cache.apply(store(prompt(1, 6)), store(prompt(2, 6)), Clear())
    assert (cache.hit(prompt(1, 6)), cache.tree.blocks, cache.residency.copies) == (0, 0, 0)


def test_tenants_with_the_same_prompt_are_apart():
    cache, tokens = Cache(), prompt(1, 4)
    cache.apply(store(tokens, salt="one"))
    assert cache.hit(tokens) == 0


@pytest.mark.parametrize(
    ("event", "cause"),
    [
        (Store([1, 2], None, prompt(1, 1), BLOCK), "wrong_length"),
        (Store([1], None, prompt(1, 1)[:8], 8), "block_size"),
        (Store([1], None, [-1] * BLOCK, BLOCK), "token_id"),
        (Store([1], None, [2**40] * BLOCK, BLOCK), "token_id"),
        (Store([1], None, [], BLOCK), "no_tokens"),
        (Remove([99]), "unknown_hash"),
        (Remove([99], group=7), "unknown_hash"),
        (Remove([99], medium="CPU"), "unknown_hash"),
    ],
)
def test_an_event_that_cannot_be_applied_is_skipped_and_counted(event, cause):
    cache, tokens = Cache(), prompt(3, 2)
    assert cache.apply(store(tokens), event) == [EventOutcome.APPLIED, EventOutcome.SKIPPED]
    assert cache.residency.skipped[cause] == 1
    assert cache.hit(tokens) == 2


@pytest.mark.parametrize("lookahead", [(), [[1]], [[1], [2, 3]]])
def test_a_store_without_the_tokens_that_its_hashes_look_ahead_at_is_missing(lookahead):
    made = Scheduler(BLOCK, lookahead_tokens=1)
    made.add_replica(0)
    made.set_trust(0, Trust.EXACT)
    stored = Store([1, 2], None, prompt(1, 2), BLOCK, lookahead=lookahead)
    assert made.apply(0, [stored], 0.0) == 1
    (status,) = made.status(0.0).replicas
    assert (status.trust, status.missing_blocks) == (Trust.REBUILDING, 2)


def test_a_store_of_no_blocks_changes_nothing():
    cache = Cache()
    assert cache.apply(Store([], None, [], BLOCK)) == [EventOutcome.SKIPPED]


def test_the_tree_is_bounded():
    cache = Cache(max_tree_blocks=10)
    cache.apply(*(store(prompt(name, 4)) for name in range(5)))
    assert cache.tree.blocks == 10
    assert [cache.hit(prompt(name, 4)) for name in range(5)] == [4, 4, 2, 0, 0]
    assert cache.residency.skipped["tree_full"] == 3
    assert cache.residency.missing_blocks == 10


def test_what_a_slower_medium_has_behind_the_gpu_is_loaded_from_it():
    cache, tokens = Cache(), prompt(1, 4)
    cache.apply(store(tokens), store(tokens, medium="CPU"), Remove(hashes(tokens)[2:]))
    assert cache.found(tokens) == (4, (("CPU", 2),))
    cache.apply(Remove(hashes(tokens)[2:], medium="CPU"))
    assert cache.found(tokens) == (2, ())


def test_a_block_on_the_gpu_behind_one_that_only_a_slower_medium_has_is_not_found():
    cache, tokens = Cache(), prompt(1, 6)
    cache.apply(store(tokens), store(tokens, medium="CPU"))
    cache.apply(Remove(hashes(tokens)[2:3]), Remove(hashes(tokens)[4:], medium="CPU"))
    assert cache.found(tokens) == (4, (("CPU", 2),))


def test_slower_media_go_on_where_another_of_them_ends():
    cache, tokens = Cache(), prompt(1, 6)
    cache.apply(store(tokens), *(store(tokens, medium=one) for one in ("CPU", "DISK")))
    cache.apply(Remove(hashes(tokens)[1:]), Remove(hashes(tokens)[3:4], medium="CPU"))
    assert cache.found(tokens) == (6, (("CPU", 4), ("DISK", 1)))


@pytest.mark.parametrize("medium", ["CPU", "EXTERNAL"])
def test_a_store_of_a_slower_medium_that_only_names_blocks_goes_by_their_hashes(medium):
    cache, tokens = Cache(), prompt(1, 4)
    placeholder = Store(hashes(tokens)[1:], None, (), 0, medium=medium)
    cache.apply(store(tokens, salt="a"), store(tokens))
    assert cache.apply(placeholder) == [EventOutcome.APPLIED]
    cache.apply(Remove(hashes(tokens)[1:]), Remove(hashes(tokens, "a")))
    assert cache.found(tokens) == (4, ((medium, 3),))
    cache.apply(Remove(hashes(tokens)[1:], medium=medium))
    assert cache.hit(tokens) == 1


def test_a_placeholder_waits_for_the_block_that_it_names():
    cache, tokens = Cache(), prompt(1, 3)
    placeholder = Store(hashes(tokens), None, (), 0, medium="CPU")
    assert cache.apply(placeholder) == [EventOutcome.WAITING]
    cache.apply(store(tokens), Remove(hashes(tokens)))
    assert cache.found(tokens) == (3, (("CPU", 3),))


def test_a_store_of_a_slower_medium_that_leaves_the_salt_out_goes_by_its_hashes():
    cache, tokens = Cache(), prompt(1, 3)
    without = store(tokens, salt="a")
    without = msgspec.structs.replace(without, namespace=(), medium="CPU")
    cache.apply(store(tokens, salt="a"), without, Remove(hashes(tokens, "a")))
    assert cache.hit(tokens) == 0


def test_hashes_that_go_by_their_names_stay_one_run():
    cache, tokens = Cache(), prompt(1, 5)
    each = [store(tokens[: end * BLOCK], end - 1, medium="CPU") for end in range(1, 6)]
    cache.apply(store(tokens), *each)
    assert len(cache.residency.layers[0, "CPU"].index.runs()) == 1


def test_a_group_in_a_slower_medium_is_of_the_kind_that_it_is_of_on_the_gpu():
    cache, tokens = Cache(), prompt(1, 6)
    names = hashes(tokens)
    cache.apply(store(tokens), sliding(tokens, range(6)))
    cache.apply(store(tokens, medium="CPU"), Store(names[4:], None, (), 0, group=1, medium="CPU"))
    cache.apply(Remove(names), Remove(names, 1))
    assert cache.hit(tokens) == 6


def test_placeholders_that_find_no_block_leave_the_residency_complete():
    cache = Cache()
    cache.apply(store(prompt(1, 1)))
    cache.apply(Store(list(range(UNPLACED_BLOCKS + 5)), None, (), 0, medium="CPU"))
    assert cache.residency.skipped == {"unplaced_full": 5}
    assert cache.residency.complete


def test_a_removal_from_one_tier_leaves_the_other():
    cache, tokens = Cache(), prompt(1, 2)
    cache.apply(store(tokens), store(tokens, medium="CPU_PINNED"), Remove(hashes(tokens)))
    assert cache.hit(tokens) == 2
    cache.apply(store(tokens))
    assert cache.found(tokens) == (2, ())


def sliding(tokens: list[int], blocks: Sequence[int], window: int = 2 * BLOCK + 1) -> Store:
    names = hashes(tokens)
    return Store(
        [names[block] for block in blocks],
        None,
        tokens,
        BLOCK,
        group=1,
        attention=Attention.SLIDING_WINDOW,
        window_tokens=window,
    )


def test_a_sliding_window_needs_only_its_last_window():
    cache, tokens = Cache(), prompt(1, 6)
    cache.apply(store(tokens), sliding(tokens, [2, 3]))
    assert cache.hit(tokens) == 4


def test_the_hit_is_the_least_over_the_groups():
    cache, tokens = Cache(), prompt(1, 6)
    cache.apply(store(tokens), sliding(tokens, [0, 1, 4, 5]), Remove([hashes(tokens)[5]]))
    assert cache.hit(tokens) == 2
    assert cache.hit(tokens, limit=1) == 1


def test_a_mamba_group_needs_its_last_state():
    cache, tokens = Cache(), prompt(1, 6)
    states = Store([hashes(tokens)[3]], None, tokens, BLOCK, group=2, attention=Attention.MAMBA)
    cache.apply(store(tokens), states)
    assert cache.hit(tokens) == 4


def test_another_group_may_speak_before_full_attention_does():
    cache, tokens = Cache(), prompt(1, 4)
    cache.apply(sliding(tokens, [2, 3]), store(tokens, group=0))
    assert cache.hit(tokens) == 4


# -- several hashes of a block -----------------------------------------------------------


def again(tokens: list[int], first: int = 100) -> Store:
    """A store of the same blocks under other hashes."""
    blocks = len(tokens) // BLOCK
    return Store(list(range(first, first + blocks)), None, tokens, BLOCK)


def test_a_block_stored_again_under_its_second_hash_is_gone_with_its_last():
    cache, tokens = Cache(), prompt(1, 3)
    first, second = store(tokens), again(tokens)
    cache.apply(first, second, Remove(first.hashes[2:]), second)
    cache.apply(*(Remove([one]) for one in second.hashes for _ in range(2)))
    assert (cache.hit(tokens), cache.residency.copies) == (2, 2)
    cache.apply(Remove(first.hashes[:2]))
    assert (cache.hit(tokens), cache.tree.blocks, cache.residency.copies) == (0, 0, 0)


@pytest.mark.parametrize("backwards", [False, True])
def test_the_hashes_of_a_block_are_removed_in_any_order(backwards: bool):
    cache, tokens = Cache(), prompt(1, 3)
    named = [store(tokens), again(tokens), again(tokens, 200)]
    cache.apply(*named)
    hits = []
    for one in named[::-1] if backwards else named:
        cache.apply(Remove(one.hashes))
        hits.append(cache.hit(tokens))
    assert hits == [3, 3, 0]


def test_a_sequence_goes_on_below_either_hash_of_a_block():
    cache, tokens = Cache(), prompt(1, 4)
    cache.apply(store(tokens[: 2 * BLOCK]), again(tokens[: 2 * BLOCK]))
    cache.apply(Store([300], 101, tokens[2 * BLOCK : 3 * BLOCK], BLOCK))
    cache.apply(Store([400], 300, tokens[3 * BLOCK :], BLOCK))
    assert cache.hit(tokens) == 4


# -- several layers ----------------------------------------------------------------------


def test_a_store_in_a_slower_medium_goes_on_below_a_block_of_the_gpu():
    cache, tokens = Cache(), prompt(1, 3)
    cache.apply(store(tokens), Remove(hashes(tokens)[2:]), store(tokens, 2, medium="CPU"))
    assert cache.found(tokens) == (3, (("CPU", 1),))
    assert cache.residency.copies == 2
    cache.apply(Remove(hashes(tokens)[2:], medium="CPU"))
    assert cache.hit(tokens) == 2


def test_a_medium_is_restored_as_itself():
    cache, tokens, other = Cache(), prompt(1, 3), Cache()
    cache.apply(store(tokens), Remove(hashes(tokens)[2:]), store(tokens, 2, medium="CPU"))
    restore(other.tree, other.residency, capture(cache.tree, cache.residency).encode())
    assert (other.found(tokens), other.residency.copies) == ((3, (("CPU", 1),)), 2)
    other.apply(Remove(hashes(tokens)[2:], medium="CPU"))
    assert other.hit(tokens) == 2


def test_a_group_without_places_and_blocks_of_several_hashes_go_together():
    cache, tokens = Cache(), prompt(1, 2)
    block, below = tokens[:BLOCK], tokens[BLOCK:]
    window = {"group": 1, "attention": Attention.SLIDING_WINDOW, "window_tokens": 3}
    outcomes = cache.apply(
        Store([1], None, block, BLOCK),
        Store([1], None, block, BLOCK, **window),
        Store([2], None, block, BLOCK, **window),
        Store([2], None, block, BLOCK),
        Store([3], 2, below, BLOCK),
    )
    assert outcomes[2] is EventOutcome.WAITING
    assert {*outcomes[:2], *outcomes[3:]} == {EventOutcome.APPLIED}
    assert [len(layer.index) for layer in cache.residency.all_layers] == [3, 2]
    cache.apply(Remove([1, 2], group=1), Remove([1, 2, 3]))
    assert cache.tree.blocks == 0


def test_a_hash_that_is_removed_while_it_waits_for_its_block_is_not_held_when_it_comes():
    cache, tokens = Cache(), prompt(1, 4)
    cache.apply(store(tokens[:BLOCK]), sliding(tokens, [1, 2]))
    assert cache.apply(Remove([hashes(tokens)[2]], group=1)) == [EventOutcome.APPLIED]
    cache.apply(store(tokens, 1))
    (layer,) = cache.residency.layers.values()
    assert list(layer.index) == [hashes(tokens)[1]]


def test_hashes_that_wait_for_their_block_are_bounded_and_the_oldest_are_missing():
    cache = Cache()
    window = {"group": 1, "attention": Attention.SLIDING_WINDOW, "window_tokens": 3}
    cache.apply(Store(list(range(UNPLACED_BLOCKS + 3)), None, [], BLOCK, **window))
    (layer,) = cache.residency.layers.values()
    assert (len(layer.unplaced), 2 in layer.unplaced, 3 in layer.unplaced) == (
        UNPLACED_BLOCKS,
        False,
        True,
    )
    assert (cache.residency.missing_blocks, cache.residency.complete) == (3, False)
    cache.apply(Remove([0, 1, 2], group=1))
    assert cache.residency.complete


# -- at the cap --------------------------------------------------------------------------


def status(made: Scheduler, replica: int = 0) -> ReplicaStatus:
    return made.status(0.0).replicas[replica]


def full(replicas: int = 2) -> tuple[Scheduler, list[int]]:
    """A tree that is full of one prompt, which replica 0 holds."""
    made, tokens = scheduler(replicas, max_tree_blocks=20), prompt(1, 20)
    made.apply(0, [store(tokens)], 0.0)
    return made, tokens


def test_a_full_tree_holds_for_a_replica_what_another_holds():
    made, tokens = full()
    assert made.apply(1, [store(tokens)], 0.0) == 0
    assert (status(made, 1).resident_blocks, status(made, 1).trust) == (20, Trust.EXACT)


def test_a_full_tree_holds_as_much_of_a_store_as_it_has():
    made, tokens = full()
    assert made.apply(1, [store(tokens[: 8 * BLOCK] + prompt(2, 4))], 0.0) == 1
    assert (status(made, 1).resident_blocks, status(made, 1).missing_blocks) == (8, 4)
    assert made.status(0.0).tree_nodes == 1


@pytest.mark.parametrize("extra", [0, 5])
def test_a_request_in_a_full_tree_expects_its_own_blocks_alone(extra: int):
    made, tokens = full()
    place(made, "asked", tokens[: 8 * BLOCK] + prompt(2, extra), fixed_replica=1)
    made.settle()
    assert status(made, 1).expected_blocks == 8
    check_tree(made._tree)


def test_a_request_that_a_full_tree_knows_nothing_of_expects_nothing():
    made, _ = full()
    place(made, "asked", prompt(2, 5), fixed_replica=1)
    made.settle()
    assert status(made, 1).expected_blocks == 0
    made.observe(1, [Finished("asked", 1)], 0.1)
    check_tree(made._tree)


def test_a_request_in_a_full_tree_draws_no_other_prompt_to_its_replica():
    made, tokens = full()
    place(made, "asked", tokens[: 8 * BLOCK] + prompt(2, 5), 1.0, fixed_replica=1)
    made.observe(1, [FirstToken("asked", 0)], 1.1)
    whole = place(made, "whole", [*tokens, 1], 1.3, fixed_replica=1)
    assert whole.cached_tokens == 8 * BLOCK
    assert place(made, "free", [*tokens, 1], 1.4).replica == 0


def test_a_full_tree_has_room_again_when_a_prompt_is_gone():
    made, tokens = full()
    made.apply(0, [Remove(hashes(tokens))], 0.0)
    assert made.apply(1, [store(prompt(2, 20))], 0.0) == 0
    assert status(made, 1).resident_blocks == 20


# -- trust -------------------------------------------------------------------------------


SKIPPED = {
    "block size": Store([1, 2], None, prompt(5, 2)[:16], 8),
    "no tokens": Store([1, 2], None, [], BLOCK),
    "wrong length": Store([1, 2], None, prompt(5, 1), BLOCK),
    "token id": Store([1, 2], None, [-1] * 2 * BLOCK, BLOCK),
}


@pytest.mark.parametrize("cause", SKIPPED)
def test_a_replica_with_a_store_that_was_skipped_is_not_exact_until_it_is_removed(cause: str):
    made = scheduler(1)
    made.apply(0, [store(prompt(1, 2)), SKIPPED[cause]], 0.0)
    assert (status(made).trust, status(made).missing_blocks) == (Trust.REBUILDING, 2)
    made.apply(0, [Remove([1])], 0.0)
    assert (status(made).trust, status(made).missing_blocks) == (Trust.REBUILDING, 1)
    assert made.apply(0, [Remove([2])], 0.0) == 0
    assert (status(made).trust, status(made).missing_blocks) == (Trust.EXACT, 0)


def test_a_replica_whose_store_was_skipped_twice_is_exact_after_as_many_removals():
    made = scheduler(1)
    made.apply(0, [SKIPPED["block size"]] * 2, 0.0)
    made.apply(0, [Remove([1, 2])], 0.0)
    assert status(made).trust is Trust.REBUILDING
    made.apply(0, [Remove([1, 2])], 0.0)
    assert status(made).trust is Trust.EXACT


def test_a_replica_with_a_store_that_was_skipped_is_exact_when_its_cache_is_cleared():
    made = scheduler(1)
    made.apply(0, [SKIPPED["block size"], Clear()], 0.0)
    assert (status(made).trust, status(made).missing_blocks) == (Trust.EXACT, 0)


def test_a_removal_from_one_medium_leaves_what_is_missing_in_another():
    made = scheduler(1)
    skipped = Store([1], None, [-1] * BLOCK, BLOCK, medium="CPU")
    made.apply(0, [store(prompt(1, 1)), skipped, Remove([1])], 0.0)
    assert status(made).trust is Trust.REBUILDING
    made.apply(0, [Remove([1], medium="CPU")], 0.0)
    assert status(made).trust is Trust.EXACT


def test_a_replica_that_misses_more_than_is_remembered_is_not_exact_until_it_is_cleared():
    made, many = scheduler(1), list(range(MISSING_BLOCKS + 1))
    made.apply(0, [Store(many, None, [1], BLOCK)], 0.0)
    made.apply(0, [Remove(many)], 0.0)
    assert (status(made).trust, status(made).missing_blocks) == (Trust.REBUILDING, 0)
    made.apply(0, [Clear()], 0.0)
    assert status(made).trust is Trust.EXACT


def test_a_store_that_is_skipped_makes_no_stream_better_than_it_is():
    made = scheduler(1)
    made.set_trust(0, Trust.GAPPED)
    made.apply(0, [SKIPPED["block size"]], 0.0)
    assert status(made).trust is Trust.GAPPED


def test_stores_that_wait_are_seen():
    made, tokens = scheduler(1), prompt(1, 4)
    made.apply(0, [store(tokens, 2), store(tokens, 3)], 0.0)
    assert (status(made).waiting_stores, status(made).resident_blocks) == (2, 0)
    made.apply(0, [store(tokens[: 2 * BLOCK])], 0.0)
    assert (status(made).waiting_stores, status(made).resident_blocks) == (0, 5)
