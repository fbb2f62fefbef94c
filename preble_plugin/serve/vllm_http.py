"""vLLM over HTTP (0.31 to 0.33), its Python front end and its Rust one.

- `/v1/models` (entrypoints/openai/models/protocol.py): `root` is the model as launched,
  `parent` is set for LoRA adapters.
- `/metrics` has `vllm:cache_config_info` with the resolved cache of each rank
  (v1/metrics/loggers.py): the label `engine` is the rank, and each has as `num_gpu_blocks`
  those of all ranks together (v1/engine/core_client.py `_apply_ready_response`).
- `/kv_event_sources` (entrypoints/serve/instrumentator/basic.py): each rank's
  `KVEventsConfig` with its own endpoints.
- The Rust front end has another owner in `/v1/models` and no `vllm:cache_config_info`. Over
  gRPC, `/vllm.Control/GetServerInfo` tells the same.
- Answers are named after `X-Request-Id` (entrypoints/openai/*/serving.py).
- The rank's header is read by completions and chat, and from 0.33 by responses
  (entrypoints/openai/*/serving.py `_get_data_parallel_rank`). `/version` tells which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from preble_plugin.serve.facts import Ask, AskError, Facts, base_model, whole
from preble_plugin.serve.kinds import Kind
from preble_plugin.service.interface import EventSource

RUST: Final = "vllm-frontend-rs"
"""The owner of the models behind the Rust front end."""
_CACHE: Final = "vllm:cache_config_info"
_SERVER_INFO: Final = "/vllm.Control/GetServerInfo"
_CONTROL: Final = """
name: "control" syntax: "proto3"
message_type { name: "Parallel" field { name: "ranks" number: 3 type: TYPE_UINT64 } }
message_type {
  name: "ServerInfo"
  field { name: "parallel" number: 4 type: TYPE_MESSAGE type_name: "Parallel" }
  field { name: "block_size" number: 6 type: TYPE_UINT64 }
  field { name: "blocks" number: 7 type: TYPE_UINT64 }
  field { name: "attention_block_size" number: 14 type: TYPE_UINT64 }
}
"""
_PREFIXES: Final = {Kind.CHAT: "chatcmpl-", Kind.COMPLETION: "cmpl-"}


class VllmHttp:
    """vLLM's manners."""

    engine = "vllm"
    health_seconds = 0.0
    wraps_text = True
    turns_developers = True

    async def learn(self, ask: Ask, cards: tuple[dict[str, Any], ...]) -> Facts:
        """Ask a vLLM server. Raises `AskError`."""
        model, adapters = base_model(cards)
        remarks: list[str] = []
        caches = await self._caches(ask)
        told = {cache.get("enable_prefix_caching") for cache in caches}
        first = caches[0] if caches else {}
        ranks = len(caches)
        block_size, blocks = whole(first.get("block_size")), whole(first.get("num_gpu_blocks"))
        if cards[0].get("owned_by") == RUST:
            try:
                ranks, block_size, blocks = _server_info(await ask.rpc(_SERVER_INFO))
            except AskError as error:
                remarks.append(f"its block size is not known: {error}")
        elif not caches:
            remarks.append("its /metrics does not tell its block size")
        if "False" in told:
            remarks.append("prefix caching is off: no prompt will be found there")
        sources = await self._sources(ask)
        root = next((card.get("root") for card in cards if card["id"] == model), None)
        ranks = max(ranks, len(sources), 1)
        return Facts(
            engine=self.engine,
            cards=cards,
            model=model,
            adapters=adapters,
            tokenizer=root if isinstance(root, str) else None,
            ranks=ranks,
            block_size=block_size,
            capacity_tokens=blocks // ranks * block_size if blocks and block_size else None,
            prefix_caching=False if "False" in told else True if "True" in told else None,
            events=sources,
            names_rank=names_rank(await self._version(ask)),
            remarks=tuple(remarks),
        )

    def answer_id(self, kind: Kind, request_id: str) -> str | None:
        """`chatcmpl-` or `cmpl-` and the request's id."""
        prefix = _PREFIXES.get(kind)
        return prefix + request_id if prefix else None

    def rank_in_body(self, kind: Kind) -> str | None:
        """None: the header does it."""
        return None

    def namespace_in_events(self, body: Mapping[str, Any]) -> bool:
        """Events name the salt. A LoRA's number, which they name too, is not known here."""
        return True

    def tools(self, tools: list[Any]) -> list[Any]:
        """`tool.model_dump()` (entrypoints/generate/base/protocol.py)."""
        return [_tool(tool) for tool in tools]

    async def _caches(self, ask: Ask) -> list[dict[str, str]]:
        """The labels of each rank's cache, by rank."""
        try:
            page = await ask.text("/metrics")
        except AskError:
            return []
        lines = [line for line in page.splitlines() if line.startswith(_CACHE)]
        found: dict[int, dict[str, str]] = {}
        try:
            for family in text_string_to_metric_families("\n".join(lines) + "\n"):
                for sample in family.samples:
                    found[int(sample.labels.get("engine") or 0)] = dict(sample.labels)
        except ValueError:
            return []
        return [labels for _, labels in sorted(found.items())]

    async def _version(self, ask: Ask) -> str:
        """Its version, empty where it does not say or where Rust answers in its place."""
        try:
            told = await ask.json("/version")
        except AskError:
            return ""
        if not isinstance(told, dict) or "rust_frontend_version" in told:
            return ""
        return str(told.get("version"))

    async def _sources(self, ask: Ask) -> tuple[EventSource | None, ...]:
        """Where the ranks publish, by position: under hybrid load balancing the ranks
        of a server are counted from 0 and its sources are not."""
        try:
            told = await ask.json("/kv_event_sources")
        except AskError:
            return ()
        if not isinstance(told, dict):
            return ()
        ranks = sorted((rank for rank in told if rank.isdigit()), key=int)
        return tuple(_source(told[rank]) for rank in ranks)


def names_rank(version: str) -> frozenset[Kind]:
    """The kinds of request that may name their rank; for all others vLLM chooses it."""
    found = re.match(r"(\d+)\.(\d+)", version)
    reads = found is not None and (int(found[1]), int(found[2])) >= (0, 33)
    return frozenset(_PREFIXES) | ({Kind.RESPONSES} if reads else set())


def _server_info(message: bytes) -> tuple[int, int, int | None]:
    """Its ranks, tokens of a block, and blocks of all ranks. Raises `AskError`."""
    from google.protobuf import message as protobuf

    try:
        info = _server_info_type().FromString(message)
    except protobuf.DecodeError:
        raise AskError(f"{_SERVER_INFO} is answered with what cannot be read") from None
    block_size = whole(info.attention_block_size) or whole(info.block_size)
    if block_size is None:
        raise AskError(f"{_SERVER_INFO} does not tell it")
    return whole(info.parallel.ranks) or 1, block_size, whole(info.blocks)


@cache
def _server_info_type() -> Any:
    """What is read of the answer, in the numbers that vLLM's `Control` gives its fields."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_CONTROL, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ServerInfo"))


def _source(told: object) -> EventSource | None:
    if not isinstance(told, dict) or told.get("publisher") != "zmq":
        return None
    endpoint, replay = told.get("endpoint"), told.get("replay_endpoint")
    if not told.get("enable_kv_cache_events") or not isinstance(endpoint, str):
        return None
    topic = told.get("topic")
    return EventSource(
        endpoint,
        replay if isinstance(replay, str) else None,
        topic if isinstance(topic, str) else "",
    )


def _tool(tool: Any) -> Any:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        return tool
    shown = {key: function.get(key) for key in ("name", "description", "parameters")}
    deferred = tool.get("defer_loading")
    given = {"defer_loading": deferred, **function}
    for key in ("strict", "defer_loading"):
        if given.get(key) is not None:
            shown[key] = given[key]
    whole = {"type": "function", "function": shown}
    return whole if deferred is None else {**whole, "defer_loading": deferred}
