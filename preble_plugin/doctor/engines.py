"""The engines by name: what differs between them for who looks at one from outside.

1. Versions that were tested, and switches of Rust front doors, are the adapters' own.
2. Whether a plugin is loaded is decided by a group of entry points and a variable:
   vLLM, plugins/__init__.py `load_plugins_by_group` (names as they stand between commas);
   SGLang, srt/plugins/__init__.py, the same name (names without white space, and an
   empty variable lets all in).
3. A server tells its version, and which front door it has: vLLM's `/version`, which has
   `rust_frontend_version` where Rust answers; SGLang's `/server_info`, which
   has `frontend`. The Python front doors name uvicorn or Granian in the header `Server`,
   the Rust ones name nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from preble_plugin.adapter.known import Known
from preble_plugin.serve.facts import Ask, AskError
from preble_plugin.sglang_ext.known import SGLANG
from preble_plugin.vllm_ext.known import VLLM

PLUGIN: Final = "preble"
"""The name of our entry points."""
_PYTHON_SERVERS: Final = ("uvicorn", "granian")


class Engine(msgspec.Struct, frozen=True):
    """One engine, and the flags that help there."""

    known: Known
    plugins: str
    """The group of entry points."""
    filter: str
    """The variable that says which plugins are loaded."""
    spaces_count: bool
    """Whether a name in `filter` is taken with the white space around it."""
    tells: tuple[str, ...]
    """Paths of which the first that answers tells the version."""
    caching: str
    """How to turn prefix caching on."""
    events: str
    """How to publish cache events, for readers outside the server."""
    blocks: str
    """The flag for the tokens of a block."""
    metrics: str
    """How to have /metrics."""
    reports: str
    """How to have answers say what was found cached."""

    @property
    def title(self) -> str:
        """Its name."""
        return self.known.title

    def lets_in(self, environment: Mapping[str, str]) -> bool:
        """Whether `filter` lets our plugin be loaded."""
        given = environment.get(self.filter)
        if given is None or not (given or self.spaces_count):
            return True
        names = given.split(",")
        return PLUGIN in (names if self.spaces_count else [name.strip() for name in names])


ENGINES: Final = (
    Engine(
        known=VLLM,
        plugins="vllm.general_plugins",
        filter="VLLM_PLUGINS",
        spaces_count=True,
        tells=("/version",),
        caching="leave out --no-enable-prefix-caching",
        events="start it with --kv-events-config '"
        '{"enable_kv_cache_events": true, "publisher": "zmq", "endpoint": "tcp://*:5557", '
        '"replay_endpoint": "tcp://*:5657"}\' (vLLM names them from 0.31 on)',
        blocks="--block-size",
        metrics="leave out --disable-log-stats",
        reports="start it with --enable-prompt-tokens-details",
    ),
    Engine(
        known=SGLANG,
        plugins="sglang.srt.plugins",
        filter="SGLANG_PLUGINS",
        spaces_count=False,
        tells=("/server_info",),
        caching="leave out --disable-radix-cache and what implies it",
        events="start it with --kv-events-config '"
        '{"publisher": "zmq", "endpoint": "tcp://*:5557", "replay_endpoint": "tcp://*:5657"}\'',
        blocks="--page-size",
        metrics="start it with --enable-metrics",
        reports="start it with --enable-cache-report",
    ),
)


def engine_of(package: str) -> Engine | None:
    """The engine of this name, if it is one of ours."""
    return next((one for one in ENGINES if one.known.package == package), None)


async def told(engine: Engine, ask: Ask) -> dict[str, Any]:
    """What a server tells of its own program; empty where it tells nothing."""
    for path in engine.tells:
        try:
            found = await ask.json(path)
        except AskError:
            continue
        if isinstance(found, dict):
            return found
    return {}


def rust_answers(told: Mapping[str, Any], server: str) -> bool | None:
    """Whether the front door is a Rust one, by what it told and by its header `Server`;
    None where neither says."""
    if "rust_frontend_version" in told or told.get("frontend") == "rust":
        return True
    if told.get("frontend") == "python" or python_answers(server):
        return False
    return None


def python_answers(server: str) -> bool:
    """Whether the header `Server` is that of an engine's own Python front door."""
    return server.lower().startswith(_PYTHON_SERVERS)
