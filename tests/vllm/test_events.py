from __future__ import annotations

from pathlib import Path

import pytest

from preble_plugin.adapter.event_endpoints import EventsConfig, local_endpoints
from preble_plugin.adapter.refusals import CannotWork
from preble_plugin.service.interface import EventSource
from preble_plugin.vllm_ext.events import NETWORK, event_sources
from preble_plugin.vllm_ext.facts import EngineFacts, Topology
from preble_plugin.vllm_ext.refusals import check_events


def topology(ranks: int = 2, local: int | None = None, hybrid: bool = False) -> Topology:
    local_ranks = ranks if local is None else local
    return Topology(ranks, local_ranks, hybrid, False, hybrid or ranks == local_ranks, 1, 0, True)


def facts(
    ranks: tuple[int, ...] = (0, 1), told: dict[int, EventsConfig] | None = None
) -> EngineFacts:
    return EngineFacts(ranks, 32, 100, 0, 0, 256, told or {})


def published(endpoint: str, replay: str | None = None, topic: str = "") -> EventsConfig:
    return EventsConfig(True, "zmq", endpoint, replay, topic, binds=True)


def suffixed(endpoint: str, rank: int) -> str:
    """vLLM's rule for ports and for paths with `inproc`."""
    if rank == 0:
        return endpoint
    if "inproc" in endpoint:
        return f"{endpoint}_dp{rank}"
    address, _, port = endpoint.rpartition(":")
    return f"{address}:{int(port) + rank}"


def test_local_sockets_are_told_apart_by_rank() -> None:
    given = published(*local_endpoints(Path("/run/d")))
    found = event_sources(facts(), given, topology(), suffixed)
    assert found == {
        0: EventSource("ipc:///run/d/inproc-e", "ipc:///run/d/inproc-r"),
        1: EventSource("ipc:///run/d/inproc-e_dp1", "ipc:///run/d/inproc-r_dp1"),
    }


def test_what_the_engines_tell_wins() -> None:
    told = {rank: published(f"tcp://10.0.0.{rank}:7", f"tcp://10.0.0.{rank}:8") for rank in (0, 1)}
    given = published(*NETWORK)
    found = event_sources(facts(told=told), given, topology(2, 1), suffixed)
    assert found == {
        0: EventSource("tcp://10.0.0.0:7", "tcp://10.0.0.0:8"),
        1: EventSource("tcp://10.0.0.1:7", "tcp://10.0.0.1:8"),
    }


def test_fixed_ports_of_local_ranks_are_read_on_the_loopback() -> None:
    given = published("tcp://*:5557", "tcp://*:5559", "kv")
    found = event_sources(facts(), given, topology(), suffixed)
    assert found == {
        0: EventSource("tcp://127.0.0.1:5557", "tcp://127.0.0.1:5559", "kv"),
        1: EventSource("tcp://127.0.0.1:5558", "tcp://127.0.0.1:5560", "kv"),
    }


def test_an_address_that_was_told_with_a_star_is_the_loopback() -> None:
    told = {0: published("tcp://*:7000"), 1: published("tcp://[::]:7001")}
    found = event_sources(facts(told=told), published("tcp://*:7000"), topology(), suffixed)
    assert found == {
        0: EventSource("tcp://127.0.0.1:7000"),
        1: EventSource("tcp://[::1]:7001"),
    }


def test_a_rank_elsewhere_of_which_only_the_port_is_known_has_no_source() -> None:
    given = published("tcp://*:5557", "tcp://*:5559")
    found = event_sources(facts(), given, topology(2, 1), suffixed)
    assert found == {0: EventSource("tcp://127.0.0.1:5557", "tcp://127.0.0.1:5559"), 1: None}


def test_a_port_that_nobody_told_is_no_source() -> None:
    given = published("tcp://*:0", "tcp://*:0")
    assert event_sources(facts((0,)), given, topology(), suffixed) == {0: None}


def test_ranks_of_a_hybrid_node_keep_their_global_names() -> None:
    given = published(*local_endpoints(Path("/d")))
    found = event_sources(facts((2, 3)), given, topology(4, 2, hybrid=True), suffixed)
    assert found == {
        2: EventSource("ipc:///d/inproc-e_dp2", "ipc:///d/inproc-r_dp2"),
        3: EventSource("ipc:///d/inproc-e_dp3", "ipc:///d/inproc-r_dp3"),
    }


def test_events_sent_to_an_address_are_refused() -> None:
    sent = published("tcp://10.0.0.1:5")._replace(binds=False)
    with pytest.raises(CannotWork, match=r"publishes to tcp://10\.0\.0\.1:5 instead of binding"):
        check_events(sent)
