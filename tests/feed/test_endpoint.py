from __future__ import annotations

import pytest

from preble_plugin.feed.endpoint import EndpointError, connectable


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        ("tcp://10.0.0.7:5557", "tcp://10.0.0.7:5557"),
        ("tcp://node-3.cluster:5557", "tcp://node-3.cluster:5557"),
        ("tcp://*:5557", "tcp://127.0.0.1:5557"),
        ("tcp://0.0.0.0:5557", "tcp://127.0.0.1:5557"),
        ("tcp://[::]:5557", "tcp://[::1]:5557"),
        ("tcp://[fe80::1%eth0]:5557", "tcp://[fe80::1%eth0]:5557"),
        ("ipc:///run/kv/inproc_dp1", "ipc:///run/kv/inproc_dp1"),
        ("ipc://@abstract", "ipc://@abstract"),
        ("inproc://kv", "inproc://kv"),
    ],
)
def test_what_can_be_connected_to(published: str, expected: str) -> None:
    assert connectable(published) == expected


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "5557",
        "tcp://",
        "tcp://host",
        "tcp://host:",
        "tcp://host:0",
        "tcp://host:65536",
        "tcp://host:*",
        "tcp://:5557",
        "tcp://eth0;host:5557",
        "tcp://host:5557/path",
        "tcp://host:5557\n",
        "udp://host:5557",
        "http://host:5557",
        "ipc://",
        "ipc://*",
        "ipc://" + "x" * 200,
        "inproc://",
    ],
)
def test_what_cannot_is_named_in_the_error(endpoint: str) -> None:
    with pytest.raises(EndpointError, match="event endpoint"):
        connectable(endpoint)
