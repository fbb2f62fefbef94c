from __future__ import annotations

from pathlib import Path

import pytest

from preble_plugin.adapter.event_endpoints import (
    EventsConfig,
    local_endpoints,
    reachable,
    unreadable,
)
from preble_plugin.service.run_dir import SCHEDULER_SOCKET


def published(
    endpoint: str, *, enabled: bool = True, publisher: str | None = "zmq", binds: bool = True
) -> EventsConfig:
    return EventsConfig(enabled, publisher, endpoint, None, "", binds)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (published("tcp://*:5557"), None),
        (published("tcp://[::]:5557"), None),
        (published("tcp://127.0.0.1:5557"), None),
        (published("ipc:///d/inproc-x"), None),
        (published("tcp://*:5557", enabled=False), "does not publish events"),
        (published("tcp://*:5557", publisher="null"), "does not publish events"),
        (published("tcp://*:5557", publisher=None), "does not publish events"),
        (published("ipc:///d/kv"), "has one ipc path for all ranks"),
        (published("inproc://kv"), "publishes to inproc://kv instead of binding an address"),
        (published("tcp://*:*"), "publishes to tcp://*:* instead of binding an address"),
        (
            published("tcp://10.0.0.1:5", binds=False),
            "publishes to tcp://10.0.0.1:5 instead of binding an address",
        ),
    ],
)
def test_which_configurations_can_be_read(given: EventsConfig, reason: str | None) -> None:
    assert unreadable(given) == reason


@pytest.mark.parametrize(
    ("bound", "near", "far"),
    [
        ("tcp://*:5557", "tcp://127.0.0.1:5557", None),
        ("tcp://0.0.0.0:5557", "tcp://127.0.0.1:5557", None),
        ("tcp://[::]:5557", "tcp://[::1]:5557", None),
        ("tcp://*:0", None, None),
        ("tcp://10.0.0.1:5557", "tcp://10.0.0.1:5557", "tcp://10.0.0.1:5557"),
        ("ipc:///d/inproc-e", "ipc:///d/inproc-e", None),
    ],
)
def test_what_is_bound_is_reached_over_loopback_or_by_its_host(
    bound: str, near: str | None, far: str | None
) -> None:
    assert reachable(bound, local=True) == near
    assert reachable(bound, local=False) == far


def test_the_longest_socket_is_no_longer_than_the_schedulers() -> None:
    longest = max(len(f"{one.rpartition('/')[2]}_dp999") for one in local_endpoints(Path("/d")))
    assert longest <= len(SCHEDULER_SOCKET)
