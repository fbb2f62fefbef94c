"""SGLang over HTTP (0.5.22 and 0.5.23).

- `/v1/models` (entrypoints/http_server.py): the name it is served by; LoRA adapters have it
  as their `parent`.
- `/server_info` (utils/common.py `build_server_info`): resolved arguments, what the
  schedulers have, and under `kv_events` where each rank publishes
  (runtime_context.py `describe_kv_events_publisher`).
- `/health` (`health_generate`) is well as soon as the schedulers have said anything since it
  was asked, and generates a token for that; after 20 s (`HEALTH_CHECK_TIMEOUT`) without a
  word, as behind a long prefill, it says by itself that it is not.
- `/generate` takes the rank in its body (managers/io_struct.py `GenerateReqInput`), the
  OpenAI paths but for embeddings in a header (entrypoints/openai/serving_*.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from preble_plugin.serve.facts import Ask, AskError, Facts, base_model, whole
from preble_plugin.serve.kinds import Kind
from preble_plugin.service.interface import EventSource

_MOST_RANKS: Final = 4096


class SglangHttp:
    """SGLang's manners."""

    engine = "sglang"
    health_seconds = 25.0
    wraps_text = False
    turns_developers = False

    async def learn(self, ask: Ask, cards: tuple[dict[str, Any], ...]) -> Facts:
        """Ask an SGLang server. Raises `AskError`."""
        model, adapters = base_model(cards)
        info = await ask.json("/server_info")
        if not isinstance(info, dict):
            raise AskError("its /server_info is no object")
        remarks = []
        if info.get("disable_radix_cache"):
            remarks.append("its radix cache is off: no prompt will be found there")
        told = info.get("kv_events")
        told = told if isinstance(told, dict) and told.get("publisher") == "zmq" else {}
        ranks = min(
            whole(told.get("dp_size"))
            or max(whole(info.get("dp_size")) or 1, whole(info.get("attn_dp_size")) or 1),
            _MOST_RANKS,
        )
        tokenizer = info.get("tokenizer_path") or info.get("model_path")
        return Facts(
            engine=self.engine,
            cards=cards,
            model=model,
            adapters=adapters,
            tokenizer=tokenizer if isinstance(tokenizer, str) else None,
            ranks=ranks,
            block_size=whole(told.get("block_size")) or whole(info.get("page_size")),
            capacity_tokens=whole(info.get("max_total_num_tokens")),
            prefix_caching=not info["disable_radix_cache"]
            if "disable_radix_cache" in info
            else None,
            max_running=_running(info, ranks),
            events=tuple(_source(told, rank) for rank in range(ranks)),
            names_rank=frozenset(Kind) - {Kind.EMBEDDING},
            remarks=tuple(remarks),
        )

    def answer_id(self, kind: Kind, request_id: str) -> str | None:
        """None: SGLang makes up its own."""
        return None

    def rank_in_body(self, kind: Kind) -> str | None:
        """`routed_dp_rank` on `/generate`."""
        return "routed_dp_rank" if kind is Kind.GENERATE else None

    def namespace_in_events(self, body: Mapping[str, Any]) -> bool:
        """Events name neither the salt nor the extra key."""
        return not (body.get("cache_salt") or body.get("extra_key"))

    def tools(self, tools: list[Any]) -> list[Any]:
        """`Tool.model_dump()` (entrypoints/openai/protocol.py): fields in the client's order."""
        return [_tool(tool) for tool in tools]


def _running(info: Mapping[str, Any], ranks: int) -> int | None:
    """What each rank runs at once."""
    states = info.get("internal_states")
    if isinstance(states, list) and states and isinstance(states[0], dict):
        told = whole(states[0].get("effective_max_running_requests_per_dp"))
        if told:
            return told
    told = whole(info.get("max_running_requests"))
    return max(told // ranks, 1) if told else None


def _source(told: Mapping[str, Any], rank: int) -> EventSource | None:
    host, port = told.get("endpoint_host"), whole(told.get("endpoint_port_base"))
    if not isinstance(host, str) or port is None:
        return None
    replay, topic = whole(told.get("replay_endpoint_port_base")), told.get("topic")
    return EventSource(
        f"tcp://{host}:{port + rank}",
        f"tcp://{host}:{replay + rank}" if replay else None,
        topic if isinstance(topic, str) else "",
    )


def _tool(tool: Any) -> Any:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        return tool
    known = ("description", "name", "parameters", "strict", "defer_loading")
    shown = {key: value for key, value in function.items() if key in known}
    for key in ("strict", "defer_loading"):
        if shown.get(key, ...) is None:
            del shown[key]
    for key in ("description", "name", "parameters"):
        shown.setdefault(key, None)
    deferred = tool.get("defer_loading")
    if deferred is not None:
        shown.setdefault("defer_loading", deferred)
    return {"type": "function", "function": shown, "defer_loading": deferred}
