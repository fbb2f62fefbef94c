from __future__ import annotations

from collections.abc import Sequence

import pytest
from builders import BLOCK, hashes, prompt, store

from preble_plugin.core import Attention, BlockHasher, Clear, Remove, Store
from preble_plugin.core.hits import usable
from preble_plugin.core.orphans import ORPHAN_STORES
from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.residency import EventOutcome, Residency
from preble_plugin.core.tree_check import check_residency, check_tree


class Cache:
    """One replica's residency and the hit a prompt has there."""

    def __init__(self, max_tree_blocks: int = 1 << 30) -> None:
        self.tree = PrefixTree(max_tree_blocks)
        self.hasher = BlockHasher(BLOCK, b"seed")
        self.residency = Residency(self.tree, self.hasher)

    def apply(self, *events: object) -> list[EventOutcome]:
        applied = [self.residency.apply(event) for event in events]  # type: ignore[arg-type]
        check_tree(self.tree)
        check_residency(self.tree, self.residency)
        return applied

    def hit(self, tokens: list[int], limit: int | None = None) -> int:
        return int(self.worth(tokens, limit)[0])

    def worth(self, tokens: list[int], limit: int | None = None) -> tuple[int, float]:
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


def test_a_lower_tier_counts_with_its_credit():
    cache, tokens = Cache(), prompt(1, 4)
    cache.apply(store(tokens), store(tokens, medium="CPU"), Remove(hashes(tokens)[2:]))
    assert cache.worth(tokens) == (4, 2 + 2 * 0.75)
    cache.apply(Remove(hashes(tokens)[2:], medium="CPU"))
    assert cache.worth(tokens) == (2, 2.0)


def test_a_removal_from_one_tier_leaves_the_other():
    cache, tokens = Cache(), prompt(1, 2)
    cache.apply(store(tokens), store(tokens, medium="CPU_PINNED"), Remove(hashes(tokens)))
    assert cache.hit(tokens) == 2
    cache.apply(store(tokens))
    assert cache.worth(tokens) == (2, 2.0)


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
