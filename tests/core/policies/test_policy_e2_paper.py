from __future__ import annotations

import pytest
from builders import chosen, decode, hold, place, prompt, scheduler, serve, use, wait_seconds

from preble_plugin.core import Finished, FirstToken, Scheduler

DOCUMENT = prompt(1, 128)


def fleet(loads: list[float], holding: tuple[int, ...] = (), **more: object) -> Scheduler:
    """Replicas that were assigned so many seconds of prefill in the window, all done."""
    made = scheduler(len(loads), policy="e2-paper", **more)
    for replica in holding:
        hold(made, replica, DOCUMENT)
    for replica, seconds in enumerate(loads):
        if seconds:
            name = wait_seconds(made, replica, seconds)
            # No output at all: the window's decode is then nothing.
            made.observe(replica, [FirstToken(name, None, timed=False), Finished(name, 0)], 0.0)
    return made


def test_an_exact_repeat_of_a_prompt_exploits_the_replica_that_served_it():
    # PREBLE 6.1
    assert chosen(fleet([1.0] * 4, holding=(2,)), DOCUMENT) == (2, "exploit")


@pytest.mark.parametrize("question", range(16))
def test_a_prefix_on_two_of_four_replicas_goes_to_one_of_the_two(question):
    # PREBLE 6.2
    made = fleet([1.0] * 4, holding=(2, 3))
    assert chosen(made, DOCUMENT + prompt(10 + question, 1))[0] in (2, 3)


def test_cost_is_the_load_of_the_window_and_not_of_the_moment():
    made = fleet([5.0, 0.0])
    wait_seconds(made, 1, 3.0)
    assert chosen(made, prompt(2, 128)) == (1, "explore")


@pytest.mark.parametrize(("load", "expected"), [(1.05, 1), (1.2, 0)])
def test_exploring_adds_prefill_to_the_load(load, expected):
    # PREBLE 6.3: half of the prompt cached saves some 0.11 s.
    made = fleet([1.0, load])
    hold(made, 1, prompt(2, 64))
    assert chosen(made, prompt(2, 64) + prompt(3, 64)) == (expected, "explore")


@pytest.mark.parametrize(("load", "expected"), [(1.02, 1), (1.3, 0)])
def test_exploring_adds_eviction_to_the_load(load, expected):
    # A document that every second request of its replica used: 0.1 s and more.
    made = fleet([1.0, load], capacity=130)
    hold(made, 0, DOCUMENT)
    use(made, 0, DOCUMENT)
    made.add_replica(1, capacity_blocks=10_000)
    assert chosen(made, prompt(3, 128)) == (expected, "explore")


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ([15.1, 10.0, 11.0], (1, "rebalance")),
        ([14.9, 10.0, 10.0], (0, "exploit")),
        ([16.0, 20.0, 10.0], (0, "exploit")),  # not the heaviest
    ],
)
def test_what_would_exploit_the_heaviest_goes_to_the_lightest_beyond_half_as_much_again(
    loads, expected
):
    assert chosen(fleet(loads, holding=(0,)), DOCUMENT) == expected


def decode_heavy(made: Scheduler, replica: int, output_tokens: int) -> None:
    """The replica's requests of the window decode so many tokens each."""
    for name in decode(made, replica, 4):
        made.observe(replica, [Finished(name, output_tokens)], 0.0)


def test_exploring_prefers_the_most_decode_heavy_replica():
    made = fleet([1.0, 0.3, 0.3])
    decode_heavy(made, 1, 8000)
    decode_heavy(made, 2, 16_000)
    assert chosen(made, prompt(2, 128)) == (2, "decode-heavy")


def test_a_decode_heavy_replica_takes_nothing_that_exploits_another():
    made = fleet([0.0, 0.0, 0.0], holding=(0,))
    use(made, 0, prompt(3, 0, 5))
    decode_heavy(made, 2, 16_000)
    for replica in (0, 1):
        decode_heavy(made, replica, 16_000)
    assert chosen(made, DOCUMENT) == (0, "exploit")


@pytest.mark.parametrize(("now", "branch"), [(1.0, "rebalance"), (200.0, "exploit")])
def test_a_request_that_is_done_weighs_until_the_window_is_over(now, branch):
    made = scheduler(2, policy="e2-paper", window_seconds=60.0)
    first = serve(made, "a", prompt(1, 400), 0.0).replica

    again = place(made, "b", prompt(1, 400), now)

    assert (again.branch, again.replica == first) == (branch, branch == "exploit")


def test_where_outputs_outweigh_prompts_one_replica_draws_all_that_is_explored():
    made = scheduler(3, policy="e2-paper")
    placed = [place(made, str(one), prompt(one, 0, extra=12), one / 1000) for one in range(20)]
    assert {one.branch for one in placed[1:]} == {"decode-heavy"}
    assert len({one.replica for one in placed}) == 1
