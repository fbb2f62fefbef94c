from __future__ import annotations

import pytest
from builders import chosen, decode, hold, place, prompt, scheduler, wait

from preble_plugin.core import Finished, FirstToken, Scheduler

DOCUMENT = prompt(1, 125)


def holder() -> Scheduler:
    """Replica 1 holds 1,792 of the 2,000 tokens that are asked for."""
    made = scheduler(2, policy="lmetric")
    hold(made, 1, DOCUMENT[:1792])
    return made


@pytest.mark.parametrize(("decoding", "expected"), [(8, 1), (9, 0)])
def test_a_hit_is_worth_the_batch_it_is_a_share_of(decoding, expected):
    # 2000 * 1 against 208 * (decoding + 1)
    made = holder()
    decode(made, 1, decoding)
    assert chosen(made, DOCUMENT) == (expected, "lmetric")


@pytest.mark.parametrize(("queued", "expected"), [(791, 1), (793, 0)])
def test_what_is_queued_counts_with_what_is_new(queued, expected):
    # 2000 * 1 against (208 + queued) * 2
    made = holder()
    wait(made, 1, queued)
    assert chosen(made, DOCUMENT)[0] == expected


def test_those_that_wait_are_of_the_batch():
    made = scheduler(2, policy="lmetric")
    decode(made, 0)
    wait(made, 0, 1)
    wait(made, 0, 1)
    decode(made, 1, 3)
    assert chosen(made, DOCUMENT)[0] == 1  # 2002 * 4 against 2000 * 4


def test_of_idle_replicas_the_one_that_holds_the_prefix_wins():
    made = scheduler(4, policy="lmetric")
    hold(made, 2, DOCUMENT[:32])
    assert chosen(made, DOCUMENT)[0] == 2


def test_a_queue_of_prefill_sends_a_prefix_elsewhere_until_it_is_done():
    made = scheduler(2, policy="lmetric")
    document = prompt(1, 40)
    hold(made, 1, document)
    place(made, "long", prompt(2, 100), fixed_replica=1)
    asked = document + prompt(3, 1)
    assert place(made, "a", asked).replica == 0  # 41 blocks * 1 against 101 blocks * 2
    made.observe(0, [Finished("a", 0, aborted=True)], 0.1)
    made.observe(1, [FirstToken("long", 0)], 0.5)
    assert place(made, "b", asked, 0.5).replica == 1  # 41 * 1 against 1 * 2
