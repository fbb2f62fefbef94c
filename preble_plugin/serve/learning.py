"""Asking a backend what it is.

1. `/v1/models` names the owner of its models: that is the engine, and its dialect asks on.
2. What the configuration states of a backend wins over what it says itself.
3. Where it publishes its events is checked like any input: TCP with a port, or a local
   socket where the backend is on this machine. A wildcard is the backend's own host; an
   address that only its own machine could reach is no address.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec

from preble_plugin.feed.endpoint import EndpointError, connectable
from preble_plugin.serve.config import BackendConfig
from preble_plugin.serve.facts import Ask, AskError, Dialect, Facts
from preble_plugin.serve.other_http import OtherHttp
from preble_plugin.serve.sglang_http import SglangHttp
from preble_plugin.serve.vllm_http import RUST, VllmHttp
from preble_plugin.service.interface import EventSource

DIALECTS: Final[dict[str, Dialect]] = {
    one.engine: one for one in (VllmHttp(), SglangHttp(), OtherHttp())
}
_OWNERS: Final = {**DIALECTS, RUST: DIALECTS[VllmHttp.engine]}
_MOST_BYTES: Final = 32 << 20
_TCP: Final = re.compile(r"tcp://(.+):(\d+)")
_WILDCARDS: Final = {"*", "0.0.0.0", "::", "[::]"}


class Answered(NamedTuple):
    """What came back, whatever its status."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpAsk:
    """Asks one backend at `base` over `session`, with its key if it has one; over gRPC at
    `rpc_target`, HOST:PORT, in plain text and without a key."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base: str,
        headers: dict[str, str],
        options: dict[str, Any],
        timeout_seconds: float,
        rpc_target: str | None = None,
    ) -> None:
        self._session = session
        self._base = base
        self._rpc_target = rpc_target
        self._headers = headers
        self._options = options
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)

    async def status(self, path: str) -> int:
        """The status it answers GET with. Raises `AskError`."""
        return (await self.answer(path)).status

    async def answer(self, path: str, body: object = None) -> Answered:
        """Whatever it answers to GET, or with `body` to POST. Raises `AskError`."""
        data = None if body is None else msgspec.json.encode(body)
        return await self._ask("GET" if data is None else "POST", path, data)

    async def json(self, path: str, body: object = None) -> Any:
        """What it answers to GET, or with `body` to POST. Raises `AskError`."""
        found = await self._good(path, body)
        try:
            return msgspec.json.decode(found)
        except (msgspec.DecodeError, RecursionError):
            raise AskError(f"{path} is not JSON") from None

    async def text(self, path: str) -> str:
        """What it answers to GET. Raises `AskError`."""
        return (await self._good(path)).decode("utf-8", "replace")

    async def rpc(self, method: str) -> bytes:
        """The message it answers to an empty one. Raises `AskError`."""
        if self._rpc_target is None:
            raise AskError("give its --grpc-port as 'grpc_port' of this backend")
        try:
            from grpc import RpcError, aio
        except ImportError:
            raise AskError("'grpc_port' needs grpcio: pip install 'preble-plugin[grpc]'") from None
        try:
            async with aio.insecure_channel(self._rpc_target) as channel:
                call = channel.unary_unary(method)(b"", timeout=self._timeout.total)
                return bytes(await call)
        except RpcError as error:
            raise AskError(f"{method} at {self._rpc_target}: {error.details()}") from None

    async def _good(self, path: str, body: object = None) -> bytes:
        status, _, found = await self.answer(path, body)
        if status != 200:
            hint = "; it wants a key: name its file in 'api_key_file'" if status == 401 else ""
            raise AskError(f"{path} is answered with {status}{hint}")
        return found

    async def _ask(self, method: str, path: str, data: bytes | None) -> Answered:
        headers = self._headers
        if data is not None:
            headers = {**headers, "Content-Type": "application/json"}
        try:
            async with self._session.request(
                method,
                self._base + path,
                data=data,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
                **self._options,
            ) as answer:
                found = bytearray()
                async for piece in answer.content.iter_any():
                    found += piece
                    if len(found) > _MOST_BYTES:
                        raise AskError(f"{path} is answered with more than {_MOST_BYTES} bytes")
                return Answered(answer.status, answer.headers, bytes(found))
        except TimeoutError:
            raise AskError(f"{path} is not answered in {self._timeout.total:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise AskError(f"{path}: {error or type(error).__name__}") from None


async def learn(ask: Ask, config: BackendConfig, host: str) -> Facts:
    """Ask the backend of `config`, reached at `host`. Raises `AskError`."""
    listed = await ask.json("/v1/models")
    data = listed.get("data") if isinstance(listed, dict) else None
    cards = tuple(
        card for card in data or () if isinstance(card, dict) and isinstance(card.get("id"), str)
    )
    owner = cards[0].get("owned_by") if cards else None
    facts = await _OWNERS.get(str(owner), DIALECTS["unknown"]).learn(ask, cards)
    events = facts.events
    ranks = config.ranks or facts.ranks
    if config.events is not None:
        events = tuple(_of_rank(config, rank) for rank in range(ranks))
    remarks = list(facts.remarks)
    found: list[EventSource | None] = []
    for rank in range(ranks):
        source = events[rank] if rank < len(events) else None
        try:
            found.append(source and dialled(source, host))
        except EndpointError as error:
            found.append(None)
            remarks.append(f"rank {rank}: {error}")
    return msgspec.structs.replace(facts, ranks=ranks, events=tuple(found), remarks=tuple(remarks))


def dialled(source: EventSource, host: str) -> EventSource:
    """Where to connect to, from here, for what a backend at `host` publishes at
    `source`. Raises `EndpointError`."""
    replay = source.replay_endpoint
    return EventSource(
        _dialled(source.endpoint, host),
        None if replay is None else _dialled(replay, host),
        source.topic,
    )


def _dialled(endpoint: str, host: str) -> str:
    here = is_loopback(host)
    if endpoint.startswith("ipc://") and here:
        return connectable(endpoint)
    found = _TCP.fullmatch(endpoint)
    if found is None:
        raise EndpointError(f"events at {endpoint!r} cannot be read from here")
    named, port = found[1], found[2]
    if named in _WILDCARDS:
        named = f"[{host}]" if ":" in host else host
    elif is_loopback(named.strip("[]")) and not here:
        raise EndpointError(
            f"events at {endpoint!r} can be read on the backend's own machine only: publish "
            "on an address that can be reached from here"
        )
    return connectable(f"tcp://{named}:{port}")


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine, as far as its name says."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _of_rank(config: BackendConfig, rank: int) -> EventSource:
    assert config.events is not None
    replay = config.events.replay_endpoint
    return EventSource(
        _plus(config.events.endpoint, rank),
        _plus(replay, rank) if replay else None,
        config.events.topic,
    )


def _plus(endpoint: str, rank: int) -> str:
    found = _TCP.fullmatch(endpoint)
    return f"tcp://{found[1]}:{int(found[2]) + rank}" if found else endpoint
