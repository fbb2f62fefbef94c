"""E2's decisions on real replicas, as docs/policies.md and PREBLE.md state them.

The prior of a new fleet prices 2,048 tokens at 0.228 s, and the 16 that are computed
again after a hit of 2,032 at 0.018 s.
"""

from __future__ import annotations

import random
from collections import Counter
from functools import cache

import pytest
from builders import (
    Seen,
    Watched,
    chosen,
    decode,
    hold,
    place,
    prompt,
    scheduler,
    slow,
    store,
    use,
    wait_seconds,
)

from preble_plugin.core import Finished, FirstToken, Remove, Scheduler
from preble_plugin.core.policies.e2 import E2

DOCUMENT = prompt(1, 128)


def fleet(
    replicas: int = 4, holding: tuple[int, ...] = (), without: tuple[str, ...] = (), **more: object
) -> Scheduler:
    """Replicas of which some hold the document; one request decodes on each, so that none
    is more crowded than another once it has as many in its queue."""
    made = scheduler(replicas, policy=E2(without), **more)
    for replica in holding:
        hold(made, replica, DOCUMENT)
    return made


def queued(made: Scheduler, seconds: dict[int, float], crowd: int = 1) -> Scheduler:
    """A queue of so many seconds on each replica, and `crowd` requests on all of them."""
    for replica in made.replicas:
        if replica in seconds:
            wait_seconds(made, replica, seconds[replica])
        decode(made, replica, crowd - (replica in seconds))
    return made


def test_an_exact_repeat_of_a_prompt_exploits_the_replica_that_served_it():
    # PREBLE 6.1. The engine computes the last block again: the hit is one block short.
    assert chosen(fleet(holding=(2,)), DOCUMENT) == (2, "exploit")


@pytest.mark.parametrize("tokens", [17, 32, 33, 48])
def test_a_repeat_of_a_prompt_of_few_blocks_goes_where_it_was(tokens):
    made = fleet()
    hold(made, 3, prompt(2, 3))
    assert chosen(made, prompt(2, 3)[:tokens])[0] == 3


@pytest.mark.parametrize("question", range(16))
def test_a_prefix_on_two_of_four_replicas_goes_to_one_of_the_two(question):
    # PREBLE 6.2: the argmin is over the candidates, the answer a replica.
    assert chosen(fleet(holding=(2, 3)), DOCUMENT + prompt(10 + question, 1))[0] in (2, 3)


def test_of_two_holders_the_less_loaded_takes_the_request():
    assert chosen(queued(fleet(holding=(2, 3)), {2: 0.05}), DOCUMENT) == (3, "exploit")


@pytest.mark.parametrize(("blocks", "branch"), [(64, "explore"), (65, "exploit")])
def test_half_cached_is_explored_and_a_block_more_exploits(blocks, branch):
    made = fleet()
    hold(made, 1, prompt(3, blocks))
    assert chosen(made, prompt(3, blocks) + prompt(4, 128 - blocks))[1] == branch


def test_exploring_adds_load_to_what_misses_on_each_replica():
    # PREBLE 6.3: P counts, and per replica. A third cached saves some 0.08 s.
    made = fleet(2)
    hold(made, 1, DOCUMENT[: 40 * 16])
    asked = DOCUMENT[: 40 * 16] + prompt(5, 88)
    assert chosen(queued(made, {1: 0.02}), asked) == (1, "explore")
    made = fleet(2)
    hold(made, 1, DOCUMENT[: 40 * 16])
    assert chosen(queued(made, {1: 0.2}), asked) == (0, "explore")


def test_a_faster_replica_is_worth_its_load():
    made = fleet(2)
    slow(made, 0, 2.0)
    slow(made, 1, 1.0)
    assert chosen(queued(made, {1: 0.1}), prompt(5, 128)) == (1, "explore")


@pytest.mark.parametrize(("queue", "expected"), [(0.02, 1), (0.4, 0)])
def test_eviction_that_costs_more_than_the_queue_elsewhere_is_avoided(queue, expected):
    made = fleet(2, capacity=130)
    hold(made, 0, DOCUMENT)
    use(made, 0, DOCUMENT)
    assert chosen(queued(made, {1: queue}), prompt(5, 128)) == (expected, "explore")


@pytest.mark.parametrize(("queue", "branch"), [(1.10, "exploit"), (1.15, "rebalance")])
def test_a_queue_of_five_recomputations_moves_a_cached_request(queue, branch):
    # 0.018 + queue - 0.228 > 4 x 0.228
    replica, rule = chosen(queued(fleet(holding=(0,)), {0: queue}), DOCUMENT)
    assert (rule, replica == 0) == (branch, branch == "exploit")


def test_a_long_document_stays_behind_a_queue_that_moves_a_short_prompt():
    made, document = fleet(), prompt(6, 1500)
    hold(made, 0, document)
    assert chosen(queued(made, {0: 1.15}), document) == (0, "exploit")


@pytest.mark.parametrize(("queue", "branch"), [(39.0, "exploit"), (43.0, "rebalance")])
def test_replicas_all_loaded_much_alike_keep_their_prefixes(queue, branch):
    # 30 s more, but not four times as much.
    made = queued(fleet(holding=(0,)), {0: queue, 1: 10.2, 2: 10.3, 3: 10.4})
    assert chosen(made, DOCUMENT)[1] == branch


def test_rebalancing_takes_the_cheapest_of_the_lighter_replicas():
    made = queued(fleet(holding=(0,)), {0: 5.0, 1: 0.3, 2: 0.1, 3: 0.2})
    assert chosen(made, DOCUMENT) == (2, "rebalance")


def test_eviction_elsewhere_keeps_a_cached_request_where_it_is():
    made = fleet(2, holding=(0,), capacity=600)
    for name in (7, 8):
        hold(made, 1, prompt(name, 300))
        use(made, 1, prompt(name, 300))
    assert chosen(queued(made, {0: 1.5}), DOCUMENT) == (0, "exploit")
    made.add_replica(1, capacity_blocks=900)
    assert chosen(made, DOCUMENT) == (1, "rebalance")


@pytest.mark.parametrize(("decoding", "expected"), [(2, 0), (9, 1)])
def test_prefill_weighs_by_who_runs_beside_it(decoding, expected):
    made = fleet(2)
    decode(made, 0, decoding)
    wait_seconds(made, 1, 0.3)
    decode(made, 1)
    assert chosen(made, prompt(5, 128)) == (expected, "explore")
    assert chosen_without(made, "crowding", prompt(5, 128)) == (0, "explore")


def chosen_without(made: Scheduler, rule: str, tokens: list[int]) -> tuple[object, str]:
    made._policy = E2(without=[rule])
    return chosen(made, tokens)


def asked_for(made: Scheduler, requests: int, others: int) -> Scheduler:
    """The document was asked for so often on replica 0, and other prompts."""
    for _ in range(requests):
        use(made, 0, DOCUMENT)
    for number in range(others):
        use(made, 0, prompt(100 + number, 1))
    return made


@pytest.mark.parametrize(
    ("holding", "requests", "others", "branch"),
    [
        ((0,), 9, 1, "replicate"),
        ((0, 1, 2), 9, 1, "replicate"),  # 0.9 x 4 = 3.6
        ((0, 1), 25, 75, "exploit"),  # 0.25 x 4 x 1.5 = 1.5
        ((0,), 25, 75, "replicate"),
        ((0,), 10, 90, "exploit"),  # 0.1 x 4 x 1.5 = 0.6
    ],
)
def test_a_prefix_of_many_requests_deserves_as_many_replicas(holding, requests, others, branch):
    made = asked_for(fleet(holding=holding), requests, others)
    queued(made, dict.fromkeys(holding, 0.05))
    replica, rule = chosen(made, DOCUMENT)
    assert (rule, replica in holding) == (branch, branch == "exploit")
    assert chosen_without(made, "replication", DOCUMENT)[1] == "exploit"


@pytest.mark.parametrize(("requests", "branch"), [(40, "exploit"), (70, "replicate")])
def test_beyond_its_share_a_hot_prefix_puts_out_nothing_in_use(requests, branch):
    # Of three replicas 0.4 deserves 1.2, and with half as many again 1.8: a second one
    # where it puts nothing out. 0.7 deserves two wholly.
    made = fleet(3, holding=(0,), capacity=200, without=("rebalancing",))
    for replica in (1, 2):
        hold(made, replica, prompt(9, 199))
        use(made, replica, prompt(9, 199))
    asked_for(made, requests, 100 - requests)
    queued(made, {0: 0.05})
    assert chosen(made, DOCUMENT)[1] == branch
    made._policy = E2(without=["rebalancing", "eviction"])
    assert chosen(made, DOCUMENT)[1] == "replicate"
    made._policy = E2(without=["rebalancing"])
    for replica in (1, 2):
        made.add_replica(replica, capacity_blocks=900)
    assert chosen(made, DOCUMENT)[1] == "replicate"


@pytest.mark.parametrize(("there", "branch"), [(0.04, "replicate"), (0.06, "exploit")])
def test_a_hot_prefix_is_not_sent_where_the_queue_is_longer(there, branch):
    made = asked_for(fleet(2, holding=(0,)), 9, 1)
    assert chosen(queued(made, {0: 0.05, 1: there}), DOCUMENT)[1] == branch


def test_different_prefixes_spread_over_idle_replicas_and_each_stays_with_its_own():
    made = fleet(8)
    spread = Counter(chosen(made, prompt(200 + number, 4))[0] for number in range(400))
    again = {chosen(made, prompt(99, 4))[0] for _ in range(10)}
    assert set(spread) == set(range(8))
    assert max(spread.values()) < 90
    assert len(again) == 1


def test_a_short_common_preamble_and_a_little_more_speed_draw_nothing_to_one_replica():
    made, preamble = fleet(4), prompt(98, 4)
    hold(made, 3, preamble)
    for replica in range(4):
        slow(made, replica, 0.97 if replica == 1 else 1.0)
    spread = Counter(chosen(made, preamble + prompt(200 + n, 124))[0] for n in range(120))
    assert set(spread) == set(range(4))
    assert max(spread.values()) < 60
    made._policy = E2(without=["slack"])
    assert {chosen(made, preamble + prompt(200 + n, 124))[0] for n in range(30)} != set(range(4))


def test_of_equal_costs_the_replica_that_evicts_least_wins():
    made = fleet(4)
    for replica in (0, 2, 3):
        made.add_replica(replica, capacity_blocks=4)
    assert {chosen(made, prompt(200 + number, 8))[0] for number in range(12)} == {1}


def priced(made: Scheduler, tokens: list[int]) -> list[bool]:
    """Whether each replica's prefill was priced."""
    place(made, "priced", tokens)
    (receipt,) = made.explain("priced")
    return [one.prefill_seconds is not None for one in receipt.candidates]


def test_an_idle_holder_is_chosen_without_a_look_at_the_others():
    assert priced(fleet(8, holding=(5,)), DOCUMENT) == [one == 5 for one in range(8)]


def test_a_holder_among_replicas_as_busy_costs_no_look_at_them():
    made = queued(fleet(8, holding=(5,)), dict.fromkeys(range(8), 1.0))
    assert priced(made, DOCUMENT) == [one == 5 for one in range(8)]


def test_without_restriction_a_cached_request_goes_wherever_it_costs_least():
    made = queued(fleet(holding=(2,)), {2: 1.0})
    assert chosen(made, DOCUMENT) == (2, "exploit")
    assert chosen_without(made, "restriction", DOCUMENT)[1] == "explore"
    idle = fleet(holding=(2,), without=("restriction",))
    assert chosen(idle, DOCUMENT) == (2, "exploit")


def test_without_rebalancing_a_cached_request_waits():
    made = queued(fleet(holding=(0,), without=("rebalancing",)), {0: 9.0})
    assert chosen(made, DOCUMENT) == (0, "exploit")


def test_only_a_rule_that_there_is_can_be_left_out():
    with pytest.raises(ValueError, match=r"no rule 'speed' to leave out .*crowding"):
        E2(without=["crowding", "speed"])


# -- every choice of a random life -----------------------------------------------------------


@cache
def lives(seed: int) -> tuple[Watched, list[tuple[int, str, list[Seen], float]]]:
    """Random traffic on small caches: each decision with the numbers it was shown."""
    choose = random.Random(seed)
    watched, found = Watched(E2()), []
    replicas = choose.choice([2, 3, 5])
    made = scheduler(replicas, capacity=choose.choice([120, 400, 5000]), policy=watched)
    if seed % 2:
        for replica in range(replicas):
            slow(made, replica, choose.choice([0.5, 1.0, 3.0]))
    now, flying = 1.0, {}
    gap = choose.choice([0.002, 0.02, 0.2])
    for number in range(60):
        now += choose.expovariate(1 / gap)
        document = prompt(int(choose.paretovariate(1.0)) % 9, choose.choice([4, 60, 100]))
        tokens = document + prompt(500 + number, choose.choice([0, 1, 40]), 3)
        placed = place(made, str(number), tokens, now)
        found.append((placed.replica, placed.branch, watched.seen, watched.share))
        made.apply(placed.replica, [store(tokens)], now)
        flying[str(number)] = placed.replica
        for name in list(flying):
            if choose.random() < 0.3:
                replica = flying[name]
                made.observe(replica, [FirstToken(name, None, timed=False)], now)
                if choose.random() < 0.5:
                    made.observe(flying.pop(name), [Finished(name, 9)], now)
        if choose.random() < 0.1:
            made.apply(choose.randrange(replicas), [Remove(store(document).hashes[-1:])], now)
    return watched, found


@pytest.mark.parametrize("seed", range(24))
def test_every_choice_is_the_one_that_the_documentation_states(seed):
    _, found = lives(seed)
    for replica, branch, shown, share in found:
        prompt_tokens = shown[0].hit + shown[0].miss
        mean = sum(one.in_flight for one in shown) / len(shown)

        def cost(one: Seen, mean: float = mean) -> float:
            return (one.load + one.prefill) * (1 + one.in_flight) / (1 + mean) + one.eviction

        def tied(among: list[Seen]) -> list[object]:
            """Those that may take it of these: costs within a tenth of P, least evicted."""
            best = min(among, key=cost)
            near = [one for one in among if cost(one) <= cost(best) + 0.1 * best.prefill + 1e-12]
            fewest = min(one.evicted for one in near)
            return [one.replica for one in near if one.evicted == fewest]

        longest = max(one.hit for one in shown)
        holders = [one for one in shown if one.hit == longest]
        others = [one for one in shown if one.hit < longest]
        if longest <= prompt_tokens - longest:
            assert branch == "explore"
            assert replica in tied(shown)
            continue
        targets = [one for one in holders if one.replica in tied(holders)]
        # Which of equal targets: the one that was left, or any if it was chosen.
        if branch == "exploit":
            assert replica in [one.replica for one in targets]
            targets = [one for one in targets if one.replica == replica]
        if not others:
            assert branch == "exploit"
            continue
        deserved = share * len(shown)
        hot = 1.5 * deserved > len(holders)
        cheapest = [one for one in others if one.replica in tied(others)]
        replicates = [
            hot
            and other.load < target.load
            and (int(deserved) > len(holders) or other.eviction <= 0.1 * other.prefill)
            for target in targets
            for other in cheapest
        ]
        gains = [
            target.load > 0.0
            and cost(target) > 4 * cost(other)
            and cost(target) - cost(other) > 4 * other.prefill
            for target in targets
            for other in others
        ]
        assert branch in ("exploit", "replicate", "rebalance")
        if branch == "replicate":
            assert any(replicates)
            assert replica in [one.replica for one in cheapest]
        elif branch == "rebalance":
            assert any(gains)
            assert not all(replicates)
            assert replica in [one.replica for one in others]
        else:
            assert not all(replicates)
            assert not all(gains)


def test_the_random_lives_take_every_branch():
    branches = Counter(branch for seed in range(24) for _, branch, *_ in lives(seed)[1])
    assert min(branches[one] for one in ("exploit", "explore", "replicate", "rebalance")) >= 5
