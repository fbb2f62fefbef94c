"""What a backend says of itself, whichever engine it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from preble_plugin.serve.kinds import Kind
from preble_plugin.service.interface import EventSource


class AskError(RuntimeError):
    """A backend does not answer, or not with what was asked for."""


class Ask(Protocol):
    """Asks one backend. All raise `AskError`."""

    async def json(self, path: str, body: object = None) -> Any:
        """What it answers to GET, or with `body` to POST, as Python objects."""

    async def text(self, path: str) -> str:
        """What it answers to GET."""

    async def rpc(self, method: str) -> bytes:
        """The message it answers to an empty one, over gRPC."""


class Facts(msgspec.Struct, frozen=True):
    """One backend after it was asked."""

    engine: str
    """As its model list names its owner; `unknown` where that is none we know."""
    cards: tuple[dict[str, Any], ...]
    """Its models, as `/v1/models` has them."""
    model: str
    """The base model: which backends share a pool goes by it."""
    adapters: frozenset[str] = frozenset()
    """LoRA adapters among its models."""
    tokenizer: str | None = None
    """Directory or name of its tokenizer."""
    ranks: int = 1
    block_size: int | None = None
    """Tokens of a block, or None where it does not say."""
    capacity_tokens: int | None = None
    """What each rank's cache holds."""
    prefix_caching: bool | None = None
    """Whether it keeps prefixes, or None where it does not say."""
    max_running: int | None = None
    events: tuple[EventSource | None, ...] = ()
    """For each rank, as the engine names it: wildcards included."""
    names_rank: frozenset[Kind] = frozenset()
    """Requests of these kinds can say which rank they are for."""
    remarks: tuple[str, ...] = ()
    """What a user should know, for the log."""

    @property
    def names(self) -> list[str]:
        """The names that requests may ask for."""
        return [str(card["id"]) for card in self.cards]


class Dialect(Protocol):
    """One engine's manners over HTTP, apart from what all have in common."""

    engine: str

    def learn(self, ask: Ask, cards: tuple[dict[str, Any], ...]) -> Awaitable[Facts]:
        """Ask a backend of this engine. Raises `AskError`."""

    def answer_id(self, kind: Kind, request_id: str) -> str | None:
        """The id that an answer will have for this `X-Request-Id`, if that is known."""

    def rank_in_body(self, kind: Kind) -> str | None:
        """The body's key that names a rank, where the header does not."""

    def namespace_in_events(self, body: Mapping[str, Any]) -> bool:
        """Whether cache events tell this request's blocks from others' equal tokens."""

    def tools(self, tools: list[Any]) -> list[Any]:
        """Tools as the engine hands them to a chat template."""

    wraps_text: bool
    """Where a template takes parts, whether plain text becomes one part."""

    health_seconds: float
    """What `/health` may take of a server that is well."""

    turns_developers: bool
    """Whether developers' messages become the system's where a template has no developers."""


Learner = Callable[[Ask], Awaitable[Facts]]


def base_model(cards: tuple[dict[str, Any], ...]) -> tuple[str, frozenset[str]]:
    """The base model's name, and those of its adapters. Raises `AskError`."""
    base = [str(card["id"]) for card in cards if not card.get("parent")]
    if not base:
        raise AskError("its /v1/models names no model")
    return base[0], frozenset(str(card["id"]) for card in cards if card.get("parent"))


def whole(value: object) -> int | None:
    """A positive whole number that was told as a number or in digits, or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    return value if isinstance(value, int) and value > 0 else None
