"""A client's engines as replicas; the client is played, all else is ours."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from preble_plugin.adapter.event_endpoints import EventsConfig
from preble_plugin.core.status import ReplicaStatus, Trust
from preble_plugin.settings import Settings
from preble_plugin.vllm_ext import hooks
from preble_plugin.vllm_ext.dispatch import Dispatch
from preble_plugin.vllm_ext.facts import Topology
from preble_plugin.vllm_ext.placement import dispatch_for
from preble_plugin.vllm_ext.plan import Plan, keep


class Config(SimpleNamespace):
    """As `VllmConfig` is after the handshake of its engines."""


def client(ranks: Sequence[int] = (0, 1), blocks: int | None = 200, **more: Any) -> SimpleNamespace:
    config = Config(
        cache_config=SimpleNamespace(
            block_size=16, num_gpu_blocks=blocks, effective_attention_block_size=None
        ),
        scheduler_config=SimpleNamespace(max_num_seqs=64),
        speculative_config=None,
    )
    for path, value in more.items():
        section, name = path.split("__")
        setattr(getattr(config, section), name, value)
    identities = [rank.to_bytes(2, "little") for rank in ranks]
    return SimpleNamespace(vllm_config=config, core_engines=identities, get_kv_event_sources=dict)


def planned(
    client: SimpleNamespace, local_ranks: int = 2, port: int = 5557, auto: bool = False
) -> SimpleNamespace:
    """The client, on a node that has this many of two ranks."""
    topology = Topology(2, local_ranks, False, False, local_ranks == 2, 1, 0, True)
    events = EventsConfig(True, "zmq", f"tcp://*:{port}", None, "", binds=True)
    keep(client.vllm_config, Plan(Settings(), topology, events, None, None, auto))
    return client


@pytest.fixture(autouse=True)
def ranks_endpoints(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    monkeypatch.setattr(
        hooks, "rank_endpoint", lambda endpoint, rank: endpoint.replace("5557", str(5557 + rank))
    )


def replicas(client: SimpleNamespace) -> list[ReplicaStatus]:
    dispatch = dispatch_for(client)
    assert isinstance(dispatch, Dispatch)
    status = dispatch._frontend.status()
    assert status is not None
    return status.replicas


def test_a_client_without_a_plan_is_left_alone() -> None:
    assert dispatch_for(client()) is None


def test_a_client_that_cannot_be_read_is_left_alone_under_auto() -> None:
    broken = planned(client(), auto=True)
    broken.core_engines = None
    assert dispatch_for(broken) is None


def test_each_rank_is_a_replica_with_its_share_of_the_blocks() -> None:
    found = replicas(planned(client(ranks=(2, 3), blocks=200)))
    assert [(one.replica, one.capacity_blocks) for one in found] == [(2, 99), (3, 99)]


def test_a_capacity_that_is_not_told_is_not_known() -> None:
    assert [one.capacity_blocks for one in replicas(planned(client(blocks=None)))] == [None, None]


@pytest.mark.parametrize(
    ("more", "block_size"),
    [
        ({}, 16),
        ({"cache_config__effective_attention_block_size": 48}, 48),
    ],
)
def test_the_block_is_that_of_the_full_attention_group(
    more: dict[str, int], block_size: int
) -> None:
    assert hooks.engine_facts(client(**more)).block_size == block_size


@pytest.mark.parametrize(
    ("speculative", "dropped"),
    [
        (None, 0),
        (SimpleNamespace(use_eagle_block_drop=lambda: True), 1),
        (SimpleNamespace(use_eagle_block_drop=lambda: False), 0),
    ],
)
def test_the_block_that_speculation_drops(speculative: Any, dropped: int) -> None:
    played = client()
    played.vllm_config.speculative_config = speculative
    assert hooks.engine_facts(played).drop_blocks == dropped


def test_a_rank_that_cannot_be_heard_is_named_once_and_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []

    def handle(record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            told.append(record.getMessage())

    monkeypatch.setattr(hooks.logger(), "handle", handle)
    played = planned(client(), local_ranks=1)
    dispatch = dispatch_for(played)
    assert dispatch is not None
    dispatch._restate(played)
    (warning,) = told
    assert warning.startswith("no KV events can be read from ranks [1]")
    status = dispatch._frontend.status()
    assert status is not None
    assert status.replicas[1].trust is Trust.SILENT
