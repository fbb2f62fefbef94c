from __future__ import annotations

from collections import Counter

import pytest
from builders import chosen, decode, place, prompt, scheduler, wait

from preble_plugin.core import FirstToken, Scheduler
from preble_plugin.core.policies.least_loaded import LeastLoaded


def queue(blocks: int, decoding: int, shared: bool = False) -> Scheduler:
    """Four requests wait on replica 0 and fill so many blocks of its 100; on replica 1
    requests decode and fill one."""
    made = scheduler(2, policy="least-loaded", capacity=100)
    for number in range(4):
        tokens = prompt(1 if shared else 1 + number, blocks if shared else blocks // 4)
        place(made, f"queued {number}", tokens, fixed_replica=0)
    for number in range(decoding):
        place(made, f"decodes {number}", prompt(9, 1), fixed_replica=1)
    made.observe(1, [FirstToken(f"decodes {one}", None) for one in range(decoding)], 0.0)
    return made


def test_the_fewest_requests_win():
    made = scheduler(3, policy="least-loaded", capacity=1000)
    decode(made, 0, 3)
    wait(made, 1)
    decode(made, 1, 1)
    decode(made, 2, 5)
    assert chosen(made, prompt(1, 1)) == (1, "least-loaded")


@pytest.mark.parametrize(
    ("blocks", "decoding", "expected"),
    [
        (100, 15, 1),  # 4 + 4 * 6 * 0.5 = 16
        (100, 17, 0),
        (80, 11, 1),  # 4 + 4 * 6 * 0.3 = 11.2
        (80, 12, 0),
        (48, 5, 0),
        (48, 3, 1),
    ],
)
def test_a_queue_counts_up_to_four_times_as_the_cache_fills(blocks, decoding, expected):
    assert chosen(queue(blocks, decoding), prompt(50, 1))[0] == expected


def test_prompts_that_share_their_blocks_fill_a_cache_once():
    assert chosen(queue(40, 5, shared=True), prompt(50, 1))[0] == 0


def test_a_full_cache_without_a_queue_costs_nothing():
    made = queue(100, 5)
    made.observe(0, [FirstToken(f"queued {one}", None) for one in range(4)], 0.0)
    assert chosen(made, prompt(50, 1))[0] == 0


def test_a_cache_of_unknown_size_is_never_full():
    made = queue(100, 5)
    made.add_replica(0, capacity_blocks=None)
    assert chosen(made, prompt(50, 1))[0] == 0


def test_equal_replicas_are_taken_in_turn():
    made = scheduler(3, policy=LeastLoaded())
    assert [chosen(made, prompt(1, 1))[0] for _ in range(5)] == [0, 1, 2, 0, 1]


def test_a_burst_counted_as_it_is_placed_spreads_evenly():
    made = scheduler(4, policy="least-loaded")
    placed = [place(made, str(one), prompt(1, 1)).replica for one in range(400)]
    assert Counter(Counter(placed).values()) == {100: 4}
