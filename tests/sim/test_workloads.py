"""What holds of every workload."""

from __future__ import annotations

import pytest

from preble_plugin.sim.asked import Asked, Part
from preble_plugin.sim.workloads import WORKLOADS, make, workload_names

SAME_STREAMS = {"mooncake"}
"""A trace's streams are its own, whatever the seed."""

every = pytest.mark.parametrize("name", workload_names())


def drawn(
    name: str, requests: int = 300, rate: float = 5.0, seed: int = 1, **more: object
) -> list[Asked]:
    return make(name, requests=requests, rate=rate, seed=seed, **more)


def streams(asked: list[Asked]) -> set[int]:
    return {part.stream for request in asked for part in request.prompt} | {
        request.answer for request in asked if request.answer is not None
    }


@every
def test_a_workload_is_as_many_sound_requests_as_asked_for(name: str) -> None:
    asked = drawn(name)

    assert len(asked) == 300
    assert len({request.request_id for request in asked}) == 300
    assert all(part.tokens > 0 for request in asked for part in request.prompt)
    assert all(request.prompt and request.output_tokens >= 1 for request in asked)
    assert all(
        request.output_tokens <= request.max_output_tokens
        for request in asked
        if request.max_output_tokens is not None
    )


@every
@pytest.mark.parametrize("requests", [1, 2, 17])
def test_a_workload_can_be_small(name: str, requests: int) -> None:
    assert len(drawn(name, requests)) == requests


@every
def test_requests_come_in_order_and_behind_what_they_wait_for(name: str) -> None:
    asked = drawn(name)
    times = [request.at for request in asked if request.after is None]

    assert times == sorted(times)
    assert times[0] >= 0
    met: set[str | None] = {None}
    for request in asked:
        assert request.after in met
        met.add(request.request_id)


@every
def test_the_rate_is_what_was_asked_for(name: str) -> None:
    asked = drawn(name, requests=2000, rate=4.0)

    last = max(request.at for request in asked if request.after is None)
    assert last == pytest.approx(2000 / 4.0, rel=0.1)


@every
def test_equal_seeds_give_equal_requests_and_others_do_not(name: str) -> None:
    assert drawn(name) == drawn(name)
    assert drawn(name, seed=2) != drawn(name)


def test_no_stream_stands_for_two_things() -> None:
    met: dict[int, str] = {}
    for name in set(workload_names()) - SAME_STREAMS - {"mixed-azure"}:
        for seed in (1, 2):
            of_this = streams(drawn(name, seed=seed))
            assert not of_this & met.keys()
            met |= dict.fromkeys(of_this, name)


def test_draws_are_the_same_on_every_machine() -> None:
    one, two = drawn("agent", requests=2, seed=7)

    assert one.prompt == (Part(6631644697760285519, 1740),)
    assert (one.output_tokens, one.answer) == (3, 8035728851397622587)
    assert [part.tokens for part in two.prompt] == [1740, 3, 4]


@pytest.mark.parametrize("name", ["mooncake", "mixed-azure"])
def test_more_than_the_trace_has_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"requests, 30000 were asked for"):
        drawn(name, requests=30_000)


def test_an_unknown_name_is_told_the_nearest_and_all() -> None:
    with pytest.raises(ValueError, match=r"'documents', did you mean 'document'\?.*mooncake"):
        drawn("documents")


def test_an_unknown_parameter_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"takes no 'live_tools', did you mean 'live'"):
        drawn("tool", live_tools=3)
    with pytest.raises(ValueError, match=r"takes no 'live'\. There are: none"):
        drawn("mooncake", live=3)


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("tool", {"requests": 0}, "requests must be at least 1"),
        ("tool", {"rate": 0}, "rate must be above 0"),
        ("mooncake", {"rate": -1}, "rate must be above 0"),
        ("tool", {"seed": -1}, "seed must be 0 or more"),
        ("tool", {"live": 0}, "live must be at least 1"),
        ("tool-zipf", {"tools": 0}, "tools must be at least 1"),
        ("hot", {"share": 1.5}, "share must be in"),
        ("bursts", {"group": 0}, "group must be at least 1"),
        ("chat", {"turns": 0.5}, "turns must be at least 1"),
        ("large", {"prefixes": 0}, "prefixes must be in"),
    ],
)
def test_a_number_that_cannot_be_is_refused(name: str, wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make(name, **{"requests": 10, "rate": 1.0, "seed": 1, **wrong})  # type: ignore[arg-type]


def test_a_workload_says_what_may_be_set() -> None:
    assert WORKLOADS["hot"].parameters == {"share": 0.9, "others": 100, "prefix_tokens": 3000}
