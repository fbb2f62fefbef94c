"""One server behind the router, and where it is in its life.

    joining -> up <-> ejected        leaving, from anywhere, when it is no longer wanted

1. *joining*: it has not said yet what it is.
2. *up*: its ranks are replicas, and take requests.
3. *ejected*: it was up, and failed; it is asked on until it is well, and then anew what
   it is, for it may have been started again.
4. *leaving*: it gets no more requests; what it has ends as it will.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from preble_plugin.core import ReplicaId
from preble_plugin.serve.config import BackendConfig
from preble_plugin.serve.facts import Dialect, Facts
from preble_plugin.serve.kinds import Kind
from preble_plugin.serve.learning import DIALECTS, HttpAsk


class State(Enum):
    """Where a backend is in its life."""

    JOINING = "joining"
    UP = "up"
    EJECTED = "ejected"
    LEAVING = "leaving"


class Backend:
    """One server at `config.url`, or at `address` where that is one of several of its host.

    `key` is the secret to ask it with; `options` go to every request to it.
    """

    def __init__(
        self,
        config: BackendConfig,
        key: str | None,
        options: dict[str, Any],
        address: str | None = None,
    ) -> None:
        parts = urlsplit(config.url)
        assert parts.hostname is not None
        scheme = parts.scheme.removeprefix("dns+")
        port = parts.port or (443 if scheme == "https" else 80)
        self.config = config
        self.host = address or parts.hostname
        shown = f"[{self.host}]" if ":" in self.host else self.host
        path = parts.path.rstrip("/")
        self.name: Final = f"{shown}:{port}{path}"
        """Its address; names its replicas, with their ranks."""
        self.base: Final = f"{scheme}://{shown}:{port}{path}"
        self._grpc_target = f"{shown}:{config.grpc_port}" if config.grpc_port else None
        self.authorization = None if key is None else f"Bearer {key}"
        """Sent with requests that bring none. Never logged."""
        self.options = dict(options)
        self.host_field: str | None = None
        """The `Host` it is to be asked with, where that is not its address."""
        if address is not None:
            self.host_field = parts.netloc.rpartition("@")[2]
            if scheme == "https":
                self.options["server_hostname"] = parts.hostname
        self.state = State.JOINING
        self.facts: Facts | None = None
        self.exact = False
        """Whether its events can be matched with what is placed on it."""
        self.tells_hits: set[Kind] = set()
        """The kinds of answers in which it has told what it found cached."""
        self.failures = 0
        """Looks in a row that failed."""
        self.in_flight = 0
        self.cause = "not asked yet"
        """Why it is not up."""
        self._urls: dict[str, URL] = {}

    @property
    def dialect(self) -> Dialect:
        """How it is talked to."""
        return DIALECTS[self.facts.engine if self.facts is not None else "unknown"]

    @property
    def ranks(self) -> int:
        """Its data-parallel ranks."""
        return self.facts.ranks if self.facts is not None else 1

    def names_rank(self, kind: Kind) -> bool:
        """Whether a request of this kind can say which rank it is for."""
        return self.facts is not None and kind in self.facts.names_rank

    def replica(self, rank: int) -> ReplicaId:
        """The name of one of its ranks."""
        return f"{self.name}/{rank}"

    def url(self, path: str) -> URL:
        """Where `path`, as it came, is on it."""
        known = self._urls.get(path)
        if known is None:
            known = URL(self.base + path, encoded=True)
            if len(self._urls) < 64:
                self._urls[path] = known
        return known

    def ask(
        self,
        session: aiohttp.ClientSession,
        timeout_seconds: float,
        more: Mapping[str, str] | None = None,
    ) -> HttpAsk:
        """Questions of our own to it, with the headers `more`."""
        headers = dict(more or {})
        if self.authorization is not None:
            headers["Authorization"] = self.authorization
        if self.host_field is not None:
            headers["Host"] = self.host_field
        target = self._grpc_target
        return HttpAsk(session, self.base, headers, self.options, timeout_seconds, target)
