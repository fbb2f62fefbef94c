import pytest

from preble_plugin.bench.open_loop import Pace
from preble_plugin.bench.plan import LOAD, LONGEST_SECONDS, REQUESTS, Plan

FAST = Pace(uncached=6.0, cached=30.0)


def test_the_rate_is_a_share_of_what_half_cached_prompts_allow() -> None:
    _, rate = Plan().load(FAST)
    assert rate == pytest.approx(LOAD * 10.0)  # a miss takes 1/6 s, a hit 1/30 s, in turn


def test_where_nothing_can_be_cached_the_rate_counts_on_nothing() -> None:
    _, rate = Plan(workload="unique").load(FAST)
    assert rate == pytest.approx(LOAD * 6.0)


def test_a_rate_that_was_asked_for_is_kept() -> None:
    load, rate = Plan(rate=9.0).load(FAST)
    assert (rate, len(load.calls)) == (9.0, REQUESTS)


def test_a_slow_machine_gets_fewer_requests_and_ends_in_time() -> None:
    load, _ = Plan().load(Pace(uncached=1.0, cached=8.0))
    assert len(load.calls) < REQUESTS
    assert load.seconds == pytest.approx(LONGEST_SECONDS, rel=0.05)


def test_the_slowest_machine_still_asks_about_every_document() -> None:
    load, _ = Plan().load(Pace(uncached=0.1, cached=0.4))
    assert len({call.document for call in load.calls}) == Plan().documents
