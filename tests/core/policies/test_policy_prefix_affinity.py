from __future__ import annotations

import pytest
from builders import chosen, decode, hold, place, prompt, scheduler, wait

from preble_plugin.core import Finished, Scheduler

DOCUMENT = prompt(1, 100)


def fleet(replicas: int, holding: dict[int, int]) -> Scheduler:
    """Replicas with so many blocks of the document."""
    made = scheduler(replicas, policy="prefix-affinity")
    for replica, blocks in holding.items():
        hold(made, replica, DOCUMENT[: 16 * blocks])
    return made


def test_the_longest_hit_wins_over_a_shorter_queue():
    made = fleet(3, {0: 40, 1: 60})
    decode(made, 1, 50)
    assert chosen(made, DOCUMENT) == (1, "affinity")


@pytest.mark.parametrize(
    ("queues", "expected"),
    [
        ((65, 0), (1, "imbalanced")),
        ((64, 0), (0, "affinity")),
        ((300, 199), (1, "imbalanced")),
        ((300, 200), (0, "affinity")),
    ],
)
def test_imbalance_takes_more_than_64_requests_and_more_than_half(queues, expected):
    made = fleet(2, {0: 60})
    for replica, requests in enumerate(queues):
        decode(made, replica, requests // 2, 1)
        for _ in range(requests - requests // 2):
            wait(made, replica, 1)
    assert chosen(made, DOCUMENT) == expected


@pytest.mark.parametrize(("blocks", "expected"), [(30, (2, "least-loaded")), (31, (0, "affinity"))])
def test_below_three_tenths_cached_the_shortest_queue_wins(blocks, expected):
    made = fleet(3, {0: blocks})
    decode(made, 0)
    wait(made, 1)
    assert chosen(made, DOCUMENT) == expected


def test_of_two_holders_the_shorter_queue_wins():
    made = fleet(4, {2: 60, 3: 60})
    decode(made, 2, 3)
    decode(made, 3, 2)
    assert chosen(made, DOCUMENT) == (3, "affinity")


def test_a_prompt_without_a_block_goes_to_the_shortest_queue():
    made = fleet(3, {})
    for replica in (0, 2):
        decode(made, replica)
    assert chosen(made, []) == (1, "least-loaded")


def test_a_burst_on_one_prefix_stays_until_the_queues_are_apart_and_comes_back():
    made = scheduler(2, policy="prefix-affinity")
    document = prompt(1, 30)
    burst = [place(made, str(one), document).replica for one in range(65)]
    home = burst[0]
    assert set(burst) == {home}
    assert place(made, "over", document).branch == "imbalanced"
    made.observe(home, [Finished(str(one), 3) for one in range(60)], 0.5)
    made.observe(1 - home, [Finished("over", 0, aborted=True)], 0.5)
    again = place(made, "again", document, 0.6)
    assert (again.replica, again.branch) == (home, "affinity")
