"""Each refusal says what cannot work and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from preble_plugin.adapter.event_endpoints import EventsConfig
from preble_plugin.adapter.refusals import CannotWork
from preble_plugin.settings import Settings
from preble_plugin.sglang_ext.facts import LaunchFacts
from preble_plugin.sglang_ext.refusals import check_launch, check_method, check_queue

GOOD = LaunchFacts(
    ranks=2,
    attention_ranks=1,
    nodes=1,
    radix_cache=True,
    rust_server=False,
    ray=False,
    disaggregation="null",
    events=None,
)
EVENTS = EventsConfig(True, "zmq", "tcp://*:5557", None, "", True)


def refused(**facts: Any) -> str:
    with pytest.raises(CannotWork) as refusal:
        check_launch(GOOD._replace(**facts))
    return str(refusal.value)


@pytest.mark.parametrize("method", ["auto", "round_robin"])
def test_a_method_that_leaves_the_choice_is_taken(method: str) -> None:
    check_method(method)


@pytest.mark.parametrize("method", ["total_tokens", "total_requests"])
def test_another_method_is_a_second_choice(method: str) -> None:
    with pytest.raises(CannotWork) as refusal:
        check_method(method)
    assert str(refusal.value) == (
        f"--dp-scheduler preble and --load-balance-method {method} are two choices for one "
        "thing: leave one of them out, or use --dp-scheduler default."
    )


def test_bootstrap_rooms_choose_the_rank() -> None:
    with pytest.raises(CannotWork) as refusal:
        check_method("follow_bootstrap_room")
    assert str(refusal.value) == (
        "--dp-scheduler preble chooses each request's rank and --load-balance-method "
        "follow_bootstrap_room lets its bootstrap room do so: leave that out, "
        "or use --dp-scheduler default."
    )


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"attention_ranks": 2},
        {"ranks": 8, "attention_ranks": 8},
        {"disaggregation": "prefill"},
        {"events": EVENTS},
        {"events": EVENTS._replace(endpoint="ipc:///d/inproc-e", replay_endpoint="ipc:///d/r")},
    ],
)
def test_what_can_work_is_taken(facts: dict[str, Any]) -> None:
    check_launch(GOOD._replace(**facts))


@pytest.mark.parametrize(
    ("facts", "cause", "remedy"),
    [
        (
            {"ranks": 1},
            "there is one rank, whose local queue is off",
            "set --dp-size to 2 or more, or local_queue to on",
        ),
        ({"radix_cache": False}, "the radix cache", "leave out --disable-radix-cache"),
        ({"rust_server": True}, "the Rust server", "unset SGLANG_RUST_SERVER"),
        ({"ray": True}, "Ray runs it in a thread", "leave out --use-ray"),
        (
            {"ranks": 4, "attention_ranks": 2},
            "several replicas with DP attention",
            "use --dp-size or --attn-dp-size alone",
        ),
        ({"nodes": 2}, "this server spans 2", "run one server on each node"),
        ({"elastic": True}, "elastic EP", "leave out --max-ep-size"),
    ],
    ids=lambda it: " ".join(it) if isinstance(it, dict) else "",
)
def test_what_cannot_work_is_refused(facts: dict[str, Any], cause: str, remedy: str) -> None:
    said = refused(**facts)
    sentence, _, advice = said.partition(": ")
    assert sentence.startswith("--dp-scheduler preble ")
    assert cause in sentence
    assert remedy in advice
    assert advice.endswith(", or use --dp-scheduler default.")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"publisher": "null"}, "does not publish events"),
        ({"endpoint": "ipc:///d/events"}, "has one ipc path for all ranks"),
        (
            {"endpoint": "tcp://10.0.0.7:5557", "binds": False},
            "publishes to tcp://10.0.0.7:5557 instead of binding an address",
        ),
        ({"endpoint": "tcp://*:0"}, "leaves the port open, which SGLang does not tell"),
    ],
    ids=lambda it: " ".join(it) if isinstance(it, dict) else "",
)
def test_events_that_cannot_be_read_are_refused(given: dict[str, Any], reason: str) -> None:
    assert refused(events=EVENTS._replace(**given)) == (
        f"--dp-scheduler preble reads the ranks' KV events and --kv-events-config {reason}: "
        "leave it out, or set publisher to zmq and endpoint to an address to bind, such as "
        "tcp://*:5557."
    )


# --- the local queue ---


@pytest.mark.parametrize("facts", [{}, {"ranks": 1}, {"disaggregation": "prefill"}])
@pytest.mark.parametrize("wanted", ["auto", "on"])
def test_the_local_queue_is_on_where_it_can_be(facts: dict[str, Any], wanted: Any) -> None:
    assert check_queue(GOOD._replace(**facts), Settings(local_queue=wanted))


def test_the_local_queue_is_off_where_it_is_not_wanted() -> None:
    assert not check_queue(GOOD, Settings(local_queue="off"))
    assert not check_queue(GOOD, Settings(shadow=True))


@pytest.mark.parametrize(
    ("facts", "cause", "remedy"),
    [
        (
            {"schedule_policy": "lpm"},
            "and --schedule-policy lpm are two orders for what waits",
            "leave one of them out",
        ),
        ({"radix_cache": False}, "the radix cache is off", "leave out --disable-radix-cache"),
        ({"disaggregation": "decode"}, "a decode server", "give it to the prefill servers"),
        ({"diffusion": True}, "diffusion models", "leave out --dllm-algorithm"),
        ({"rust_server": True}, "the Rust server", "unset SGLANG_RUST_SERVER"),
        ({"ray": True}, "Ray starts", "leave out --use-ray"),
        ({"nodes": 2}, "spans 2 nodes", "run one server on each node"),
    ],
    ids=lambda it: " ".join(it) if isinstance(it, dict) else "",
)
def test_where_the_local_queue_cannot_be_it_is_off_or_refused(
    facts: dict[str, Any], cause: str, remedy: str
) -> None:
    there = GOOD._replace(**facts)
    assert not check_queue(there, Settings())
    with pytest.raises(CannotWork) as refusal:
        check_queue(there, Settings(local_queue="on"))
    sentence, _, advice = str(refusal.value).partition(": ")
    assert sentence.startswith("local_queue on ")
    assert cause in sentence
    assert advice.startswith(remedy)
    assert advice.endswith(", or set local_queue to auto.")
