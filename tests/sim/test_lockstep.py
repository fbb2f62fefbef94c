from __future__ import annotations

import pytest

from preble_plugin.core.policies.registry import policy_names
from preble_plugin.sim.asked import Asked
from preble_plugin.sim.fleet import Fleet, Served
from tests.sim.builders import asked, hardware, mixed


def served(workload: list[Asked], policy: str, replicas: int, lockstep: bool) -> list[Served]:
    fleet = Fleet(hardware(), replicas, policy, lockstep=lockstep)
    return sorted(fleet.serve(workload), key=lambda one: one.request_id)


def test_a_rank_that_decodes_waits_for_one_that_prefills() -> None:
    # The second comes while the first decodes, on the other rank: 8 steps of 256 tokens.
    workload = [asked(1, 0.0, (1, 20), output=200), asked(2, 0.5, (2, 2048), output=2)]
    apart = served(workload, "round-robin", 2, lockstep=False)
    together = served(workload, "round-robin", 2, lockstep=True)
    assert [one.replica for one in together] == [0, 1]
    prefill = apart[1].first_token - apart[1].arrived
    plain_step = (apart[0].ended - apart[0].first_token) / 199
    delay = together[0].ended - apart[0].ended
    assert prefill - 9 * plain_step <= delay <= prefill - 7 * plain_step
    assert 0 <= together[1].first_token - apart[1].first_token <= plain_step + 1e-9


def test_a_rank_alone_steps_as_it_would_without() -> None:
    workload = [asked(n, 5.0 * n, (n % 2, 500), (9 + n, 40 * n), output=30) for n in range(6)]
    apart = served(workload, "e2", 1, lockstep=False)
    for one, other in zip(apart, served(workload, "e2", 1, lockstep=True), strict=True):
        assert (one.first_token, one.ended) == pytest.approx((other.first_token, other.ended))
        assert one.cached_tokens == other.cached_tokens


def test_each_request_is_served_once_by_each_policy() -> None:
    workload = mixed(seed=4, count=120, rate=6.0)
    for policy in policy_names():
        done = served(workload, policy, 3, lockstep=True)
        assert [one.request_id for one in done] == sorted(one.request_id for one in workload)
        assert all(one.arrived < one.first_token <= one.ended for one in done)
