from __future__ import annotations

import pytest
from builders import BLOCK, hashes, place, prompt, scheduler, store

from preble_plugin.core import Finished, FirstToken, Remove, Scheduler


def costs(made: Scheduler, name: str) -> list[float | None]:
    (receipt,) = made.explain(name)
    return [one.eviction_seconds for one in receipt.candidates]


def use(made: Scheduler, name: str, tokens: list[int], now: float) -> None:
    placed = place(made, name, tokens, now, fixed_replica=0)
    made.observe(0, [FirstToken(name, placed.cached_tokens), Finished(name, 1)], now)


def explore(made: Scheduler, name: str, blocks: int, now: float) -> float:
    place(made, name, prompt(500 + len(name), blocks), now)
    made.observe(0, [Finished(name, 0, aborted=True)], now)
    found = costs(made, name)[0]
    assert found is not None
    return found


def full_cache(uses: dict[int, int], capacity: int = 60) -> Scheduler:
    """One replica with documents 1, 2, 3 of 20 blocks, used so many times each."""
    made = scheduler(1, capacity=capacity)
    made.apply(0, [store(prompt(name, 20)) for name in (1, 2, 3)], 0.0)
    now = 1.0
    for name in (1, 2, 3):
        for number in range(uses.get(name, 0)):
            use(made, f"{name}.{number}", prompt(name, 20, extra=1), now)
            now += 0.01
    return made


def test_room_in_a_cache_that_is_not_full_costs_nothing():
    assert explore(full_cache({1: 5}, capacity=90), "new", 20, 2.0) == 0


def test_losing_what_nobody_used_costs_nothing():
    assert explore(full_cache({2: 5}), "new", 20, 2.0) == 0


def test_losing_what_is_used_costs_its_prefill_by_its_share_of_requests():
    once, often = full_cache({1: 1, 2: 9, 3: 9}), full_cache({1: 9, 2: 9, 3: 1})
    assert 0 < explore(once, "new", 20, 2.0) < explore(often, "new", 20, 2.0)


def test_more_room_never_costs_less():
    found = [
        explore(full_cache({1: 2, 2: 5, 3: 3}), "new", blocks, 2.0) for blocks in (5, 20, 40, 60)
    ]
    assert found == sorted(found)
    assert found[0] < found[-1]


def test_use_is_forgotten_with_the_window():
    made = full_cache({1: 5, 2: 5, 3: 5})
    assert explore(made, "soon", 20, 2.0) > 0
    assert explore(made, "late", 20, 1000.0) == 0


def test_what_events_say_was_evicted_makes_room():
    made = full_cache({1: 5, 2: 5, 3: 5})
    assert explore(made, "before", 20, 2.0) > 0
    made.apply(0, [Remove(hashes(prompt(1, 20)))], 2.0)
    assert explore(made, "after", 20, 2.0) == 0


def test_an_unknown_capacity_prices_no_eviction():
    made = full_cache({1: 5, 2: 5, 3: 5})
    made.add_replica(0, capacity_blocks=None)
    assert explore(made, "new", 20, 2.0) == 0


def test_a_prompt_larger_than_the_cache_is_priced_by_all_that_is_held():
    whole, larger = (
        explore(full_cache({1: 5, 2: 5, 3: 5}), "new", blocks, 2.0) for blocks in (60, 240)
    )
    assert whole == larger > 0


@pytest.mark.parametrize("blocks", [1, BLOCK])
def test_the_last_used_document_goes_last(blocks: int):
    made = full_cache({3: 1, 2: 4})
    use(made, "touch 1", prompt(1, 20, extra=1), 1.5)
    made.apply(0, [Remove(hashes(prompt(3, 20)))], 1.6)
    made.apply(0, [store(prompt(3, 20))], 1.7)
    # Oldest first: 2 (four uses), then 1, then 3 (stored again last).
    assert explore(made, "new", blocks, 2.0) > 0
