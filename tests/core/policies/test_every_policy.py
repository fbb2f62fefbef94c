"""What holds of each policy there is."""

from __future__ import annotations

from collections import Counter

import pytest
from builders import chosen, place, prompt, request, scheduler

from preble_plugin.core import Finished, FirstToken, NoReplicaError
from preble_plugin.core.policies.registry import BUILT_IN

every_policy = pytest.mark.parametrize("name", BUILT_IN)


@every_policy
def test_without_a_replica_there_is_no_placement(name):
    with pytest.raises(NoReplicaError):
        place(scheduler(0, policy=name), "a", prompt(1, 4))


@every_policy
@pytest.mark.parametrize("blocks", [0, 1, 60])
def test_one_replica_takes_everything(name, blocks):
    made = scheduler(1, policy=name, capacity=100)
    for number in range(30):
        assert place(made, str(number), prompt(number, blocks), 0.1 * number).replica == 0


@every_policy
def test_an_empty_prompt_is_placed(name):
    assert chosen(scheduler(3, policy=name), [])[0] in range(3)


@every_policy
def test_a_burst_of_unlike_prompts_is_spread(name):
    made = scheduler(4, policy=name)
    for number in range(80):
        place(made, str(number), prompt(number, 40), 0.001 * number)
    running = [one.running for one in made.status(0.1).replicas]
    assert min(running) >= 8, running


# By the paper's letter the first replica whose window is decode takes what is explored.
@pytest.mark.parametrize("name", [one for one in BUILT_IN if one != "e2-paper"])
def test_prompts_without_a_block_are_spread(name):
    made = scheduler(3, policy=name)
    for number in range(60):
        place(made, str(number), prompt(number, 0, extra=12), 0.001 * number)
    running = [one.running for one in made.status(0.1).replicas]
    assert min(running) >= 8, running


@every_policy
def test_placements_go_on_when_replicas_come_and_go(name):
    made = scheduler(3, policy=name)
    for number in range(12):
        place(made, str(number), prompt(number % 3, 50, extra=number), float(number))
    made.remove_replica(1)
    made.add_replica("new")
    found = Counter(
        place(made, f"after {number}", prompt(number, 50), 20.0).replica for number in range(40)
    )
    assert set(found) == {0, 2, "new"}


@every_policy
def test_what_has_ended_leaves_no_trace_in_what_policies_see(name):
    made = scheduler(3, policy=name, capacity=1000)
    for number in range(60):
        now = float(number)
        placed = place(made, str(number), prompt(number % 7, 30, extra=number), now)
        if number % 3:
            made.observe(placed.replica, [FirstToken(str(number), None)], now + 0.1)
        made.observe(placed.replica, [Finished(str(number), number % 3)], now + 0.2)
    view = made._view(request(made, "last", prompt(1, 30)), 100.0)
    for one in view.candidates:
        assert (one.queued_tokens, one.tokens_in_flight, one.active_blocks) == (0, 0, 0)
        assert (one.waiting, one.running, one.cache_usage) == (0, 0, 0.0)
        assert one.load_seconds == 0.0
    assert view.new_active_blocks == [30] * 3
