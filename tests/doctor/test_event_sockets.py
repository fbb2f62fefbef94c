"""Real ZMQ sockets, and what is none."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from kv_publisher import KvPublisher

from preble_plugin.doctor.event_sockets import Reached, reach
from preble_plugin.service.interface import EventSource


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_publisher_answers(publisher: KvPublisher) -> None:
    publisher.store(range(64), 16)
    assert reach([publisher.source], 10) == [Reached(True, True)]


def test_a_publisher_without_replay(publisher: KvPublisher) -> None:
    source = EventSource(publisher.source.endpoint)
    assert reach([source], 10) == [Reached(True, None)]


def test_a_publisher_that_does_not_answer_replays(publisher: KvPublisher, silent_port: int) -> None:
    source = EventSource(publisher.source.endpoint, f"tcp://127.0.0.1:{silent_port}")
    assert reach([source], 0.5) == [Reached(True, False)]


def test_an_open_port_is_no_publisher(silent_port: int, publisher: KvPublisher) -> None:
    source = EventSource(f"tcp://127.0.0.1:{silent_port}", publisher.source.replay_endpoint)
    assert reach([source], 0.5) == [Reached(False, True)]


def test_each_source_is_told_apart(publisher: KvPublisher) -> None:
    nobody = EventSource("ipc:///tmp/preble-no-such-socket")
    found = reach([nobody, publisher.source, nobody], 0.5)
    assert found == [Reached(False, None), Reached(True, True), Reached(False, None)]


def test_there_is_no_bound_on_sources(publisher: KvPublisher) -> None:
    assert reach([publisher.source] * 130, 20) == [Reached(True, True)] * 130
