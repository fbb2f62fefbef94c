"""What engines say of themselves, as they say it, and what is made of it."""

from __future__ import annotations

from typing import Any

import pytest

from preble_plugin.feed.endpoint import EndpointError
from preble_plugin.serve.config import BackendConfig, Events
from preble_plugin.serve.facts import AskError
from preble_plugin.serve.learning import dialled, learn
from preble_plugin.service.interface import EventSource

VLLM_MODELS = {
    "data": [
        {"id": "tiny", "owned_by": "vllm", "root": "/models/tiny", "parent": None},
        {"id": "poet", "owned_by": "vllm", "root": "/loras/poet", "parent": "tiny"},
    ]
}
_LABELS = 'block_size="32",cache_dtype="auto",enable_prefix_caching="True",num_gpu_blocks="1200"'
VLLM_METRICS = f"""
# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{{{_LABELS},engine="1",x="a\\"}}b"}} 1.0
vllm:cache_config_info{{{_LABELS},engine="0",x="a"}} 1.0
vllm:num_requests_running{{engine="0"}} 0.0
"""
SOURCE = {
    "enable_kv_cache_events": True,
    "publisher": "zmq",
    "endpoint": "tcp://10.0.0.2:4000",
    "replay_endpoint": "tcp://*:4001",
    "topic": "kv",
}
SGLANG_MODELS = {"data": [{"id": "tiny", "owned_by": "sglang", "root": "tiny", "parent": None}]}
SGLANG_INFO = {
    "tokenizer_path": "/models/tiny",
    "page_size": 16,
    "dp_size": 2,
    "max_total_num_tokens": 8192,
    "max_running_requests": 8,
    "kv_events": {
        "publisher": "zmq",
        "endpoint_host": "*",
        "endpoint_port_base": 5557,
        "replay_endpoint_port_base": 6557,
        "topic": "kv",
        "block_size": 64,
        "dp_size": 2,
    },
}


RUST_MODELS = {"data": [{**VLLM_MODELS["data"][0], "owned_by": "vllm-frontend-rs"}]}
SERVER_INFO = (
    b'\n\x060.32.0\x12\x04vllm\x1a\x131796123870744284601"\x0c\x08\x01\x10\x01\x18\x02(\x010\x01'
    b"8\x02(\x80@0 8\x80\x80\x01@\x80\x01H\x80\x10Z\x00p "
)
"""As vLLM 0.32 said it: 2 ranks, blocks of 32 tokens, 16,384 of them."""


class Says:
    """A backend that answers these paths, and over gRPC with `rpc`."""

    def __init__(self, rpc: bytes | None = None, **answers: Any) -> None:
        self._rpc = rpc
        self._answers = {"/" + name.replace("__", "/"): told for name, told in answers.items()}

    async def json(self, path: str, body: object = None) -> Any:
        if path not in self._answers:
            raise AskError(f"{path} is answered with 404")
        return self._answers[path]

    async def text(self, path: str) -> str:
        return str(await self.json(path))

    async def rpc(self, method: str) -> bytes:
        if self._rpc is None:
            raise AskError("it has no port for that")
        return self._rpc


HERE = BackendConfig("http://10.0.0.1:8000")


async def test_vllm():
    says = Says(
        v1__models=VLLM_MODELS,
        metrics=VLLM_METRICS,
        kv_event_sources={"4": SOURCE, "11": {**SOURCE, "endpoint": "tcp://0.0.0.0:4002"}},
    )
    facts = await learn(says, HERE, "10.0.0.1")

    assert (facts.engine, facts.model, facts.adapters) == ("vllm", "tiny", {"poet"})
    assert (facts.tokenizer, facts.ranks) == ("/models/tiny", 2)
    assert (facts.block_size, facts.capacity_tokens) == (32, 19_200)  # 1,200 blocks in two ranks
    assert facts.prefix_caching is True
    assert facts.events == (
        EventSource("tcp://10.0.0.2:4000", "tcp://10.0.0.1:4001", "kv"),
        EventSource("tcp://10.0.0.1:4002", "tcp://10.0.0.1:4001", "kv"),
    )
    assert facts.remarks == ()


async def test_vllm_that_tells_little():
    off = VLLM_METRICS.replace('enable_prefix_caching="True"', 'enable_prefix_caching="False"')
    facts = await learn(Says(v1__models=VLLM_MODELS, metrics=off), HERE, "10.0.0.1")
    assert (facts.ranks, facts.events) == (2, (None, None))
    assert facts.prefix_caching is False
    assert facts.remarks == ("prefix caching is off: no prompt will be found there",)

    facts = await learn(Says(v1__models=VLLM_MODELS), HERE, "10.0.0.1")
    assert (facts.ranks, facts.block_size, facts.capacity_tokens) == (1, None, None)
    assert facts.prefix_caching is None


async def test_vllm_behind_its_rust_front_end():
    sources = {"0": SOURCE, "1": {**SOURCE, "endpoint": "tcp://*:4002"}}
    says = Says(SERVER_INFO, v1__models=RUST_MODELS, kv_event_sources=sources)
    facts = await learn(says, HERE, "10.0.0.1")

    assert (facts.engine, facts.model, facts.ranks) == ("vllm", "tiny", 2)
    assert (facts.block_size, facts.capacity_tokens) == (32, 262_144)
    assert [one.endpoint for one in facts.events if one] == [
        "tcp://10.0.0.2:4000",
        "tcp://10.0.0.1:4002",
    ]
    assert facts.remarks == ()
    without_events = await learn(Says(SERVER_INFO, v1__models=RUST_MODELS), HERE, "10.0.0.1")
    assert (without_events.ranks, without_events.capacity_tokens) == (2, 262_144)


@pytest.mark.parametrize("rpc", [None, b"\x0b", b"\x08", b"\x20\x05", b"\xff\xff"])
async def test_a_rust_front_end_that_does_not_say_its_block_size(rpc: bytes | None):
    says = Says(rpc, v1__models=RUST_MODELS, kv_event_sources={"0": SOURCE, "1": SOURCE})
    facts = await learn(says, HERE, "10.0.0.1")
    assert (facts.engine, facts.ranks, facts.block_size) == ("vllm", 2, None)
    (remark,) = facts.remarks
    assert remark.startswith("its block size is not known: ")


async def test_sglang():
    says = Says(v1__models=SGLANG_MODELS, server_info=SGLANG_INFO)
    facts = await learn(says, HERE, "::1")

    assert (facts.engine, facts.tokenizer, facts.ranks) == ("sglang", "/models/tiny", 2)
    assert (facts.block_size, facts.capacity_tokens, facts.max_running) == (64, 8192, 4)
    assert facts.prefix_caching is None
    assert facts.events == tuple(
        EventSource(f"tcp://[::1]:{5557 + rank}", f"tcp://[::1]:{6557 + rank}", "kv")
        for rank in range(2)
    )


@pytest.mark.parametrize("off", [False, True])
async def test_sglang_says_whether_it_keeps_prefixes(off: bool):
    says = Says(v1__models=SGLANG_MODELS, server_info={**SGLANG_INFO, "disable_radix_cache": off})
    assert (await learn(says, HERE, "::1")).prefix_caching == (not off)


async def test_an_engine_that_is_not_known_has_one_rank_and_no_events():
    says = Says(v1__models={"data": [{"id": "m", "owned_by": "someone"}]})
    facts = await learn(says, HERE, "10.0.0.1")
    assert (facts.engine, facts.model, facts.ranks, facts.events) == ("unknown", "m", 1, (None,))


@pytest.mark.parametrize("models", [[], {}, {"data": []}, {"data": [{"id": 4}]}, {"data": "x"}])
async def test_a_list_without_models_is_no_backend(models: Any):
    with pytest.raises(AskError, match="names no model"):
        await learn(Says(v1__models=models), HERE, "10.0.0.1")


@pytest.mark.parametrize(
    "told",
    [
        [],
        {"0": "tcp://x:1"},
        {"0": {**SOURCE, "endpoint": 5}},
        {"0": {**SOURCE, "publisher": "null"}},
        {"0": {**SOURCE, "enable_kv_cache_events": False}},
        {"0": {**SOURCE, "endpoint": "tcp://10.0.0.2:0"}},
        {"0": {**SOURCE, "endpoint": "tcp://10.0.0.2:99999"}},
        {"0": {**SOURCE, "endpoint": "ipc:///tmp/x"}},
        {"0": {**SOURCE, "endpoint": "inproc://x"}},
        {"0": {**SOURCE, "endpoint": "tcp://127.0.0.1:4000"}},
    ],
)
async def test_sources_that_cannot_be_read_from_here_are_none(told: Any):
    says = Says(v1__models=VLLM_MODELS, kv_event_sources=told)
    facts = await learn(says, HERE, "10.0.0.1")
    assert facts.events == (None,)


async def test_what_the_configuration_states_wins():
    config = BackendConfig(
        "http://h:1", ranks=2, events=Events("tcp://*:7000", "tcp://*:8000", "t")
    )
    facts = await learn(Says(v1__models=VLLM_MODELS), config, "h")
    assert facts.events == (
        EventSource("tcp://h:7000", "tcp://h:8000", "t"),
        EventSource("tcp://h:7001", "tcp://h:8001", "t"),
    )


def test_a_local_socket_is_for_a_backend_of_this_machine():
    source = EventSource("ipc:///tmp/events")
    assert dialled(source, "127.0.0.1") == source
    with pytest.raises(EndpointError):
        dialled(source, "10.0.0.1")
