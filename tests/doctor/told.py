"""What findings say, in a line of a test; and engines that answer what a test says."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from preble_plugin.doctor.finding import Finding, State
from preble_plugin.doctor.server import Wanted, look_at_server
from tests.serve.recorded_engine import RecordedEngine


def states(findings: Sequence[Finding], check: str) -> list[str]:
    """How the findings of one check stand."""
    return [one.state.value for one in findings if one.check == check]


def the(findings: Sequence[Finding], check: str) -> Finding:
    """The one finding of a check."""
    (found,) = [one for one in findings if one.check == check]
    return found


def bad(findings: Sequence[Finding]) -> dict[str, str]:
    """What is not ok, by check."""
    return {one.check: one.state.value for one in findings if one.state is not State.OK}


class ToldEngine(RecordedEngine):
    """A recorded engine that also answers GET on the paths of `answers`: text as it is, None
    by 404, all else as JSON. `headers` go with `/v1/models`; `server` is its header `Server`."""

    def __init__(
        self,
        *,
        answers: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        server: str = "uvicorn",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.answers = dict(answers or {})
        self._headers = {"Server": server, **(headers or {})}

    def _plain(self, path: str) -> web.Response | None:
        if path in self.answers:
            told = self.answers[path]
            if told is None:
                return web.Response(status=404)
            text = told if isinstance(told, str) else json.dumps(told)
            return web.Response(text=text)
        found = super()._plain(path)
        if found is not None and path == "/v1/models":
            found.headers.update(self._headers)
        return found


Start = Callable[..., Awaitable[ToldEngine]]


async def look(engine: ToldEngine, seconds: float = 5.0, **wanted: Any) -> list[Finding]:
    """Findings about `engine`. The tokenizer is not compared if none is named."""
    findings = await look_at_server(Wanted(engine.url, timeout_seconds=seconds, **wanted))
    if "tokenizer" not in wanted:
        findings = [one for one in findings if one.check != "tokenizer"]
    return findings


SGLANG_INFO = {
    "version": "0.5.23",
    "frontend": "python",
    "page_size": 16,
    "dp_size": 1,
    "max_total_num_tokens": 16_000,
    "disable_radix_cache": False,
    "api_key": "5ec4e7",
    "kv_events": None,
}


def sglang(**changes: Any) -> dict[str, Any]:
    """What an SGLang server of one rank says of itself, with metrics on."""
    return {"/server_info": {**SGLANG_INFO, **changes}, "/metrics": ""}


def cache(prefix_caching: bool = True, ranks: int = 1) -> str:
    """vLLM's metrics of its caches."""
    return "".join(
        f'vllm:cache_config_info{{block_size="16",enable_prefix_caching="{prefix_caching}",'
        f'engine="{rank}",num_gpu_blocks="{1000 * ranks}"}} 1.0\n'
        for rank in range(ranks)
    )


def preble(
    *,
    placed: int = 100,
    predicted: int = 6400,
    found: int = 6400,
    trust: str = "exact",
    shadow: int = 0,
    fallbacks: int = 0,
    lag: float = 0.01,
) -> str:
    """Our metrics of one replica, as `service/metrics` names them."""
    return (
        f'preble:placements_total{{branch="exploit",replica="0"}} {placed}\n'
        f'preble:prompt_tokens_total{{replica="0"}} {placed * 100}\n'
        f'preble:predicted_cached_tokens_total{{replica="0"}} {predicted}\n'
        f'preble:actual_cached_tokens_total{{replica="0"}} {found}\n'
        f'preble:fallbacks_total{{cause="deadline"}} {fallbacks}\n'
        f'preble:event_lag_seconds{{replica="0"}} {lag}\n'
        f'preble:stream_trust{{replica="0",state="{trust}"}} 1.0\n'
        f"preble:shadow {shadow}.0\n"
    )
