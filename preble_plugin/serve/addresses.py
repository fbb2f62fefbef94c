"""From the configuration's URLs to backends: addresses, keys, TLS.

A URL with `dns+` before it is a backend for each address that its host name has, as with
the headless services of Kubernetes. A name that cannot be looked up keeps the addresses it
had: a name server that is away is no reason to stop.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from preble_plugin.serve.backend import Backend
from preble_plugin.serve.config import EVERY_ADDRESS, BackendConfig, Tls

_log = logging.getLogger(__name__)


class Addresses:
    """Finds backends. Raises `OSError` for certificates that cannot be used."""

    def __init__(self, tls: Tls) -> None:
        self._ssl = None if tls == Tls() else _context(tls)
        self._told: set[str] = set()

    async def backends(
        self, entries: Sequence[BackendConfig], known: Sequence[Backend]
    ) -> dict[str, Backend]:
        """The backends that `entries` stand for now, by name. `known` are those there are."""
        found: dict[str, Backend] = {}
        for entry in entries:
            for backend in await self._of(entry, known):
                found.setdefault(backend.name, backend)
        return found

    async def _of(self, entry: BackendConfig, known: Sequence[Backend]) -> list[Backend]:
        secure = urlsplit(entry.url).scheme.endswith("https")
        options: dict[str, Any] = {"ssl": self._ssl} if secure and self._ssl else {}
        key = await asyncio.to_thread(self._key, entry)
        if not entry.url.startswith(EVERY_ADDRESS):
            return [Backend(entry, key, options)]
        host = urlsplit(entry.url).hostname
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, None, type=socket.SOCK_STREAM
            )
        except OSError as error:
            self._tell(f"backend {entry.url} does not resolve: {error}")
            return [one for one in known if one.config == entry]
        self._told.clear()
        addresses = dict.fromkeys(str(one[4][0]) for one in found)
        return [Backend(entry, key, options, address) for address in addresses]

    def _key(self, entry: BackendConfig) -> str | None:
        """The backend's key, from its file."""
        if entry.api_key_file is None:
            return None
        try:
            with open(entry.api_key_file, encoding="utf-8") as file:
                return file.read().strip() or None
        except (OSError, UnicodeDecodeError) as error:
            self._tell(f"backend {entry.url} goes without its key: {error}")
            return None

    def _tell(self, words: str) -> None:
        if words not in self._told:
            self._told.add(words)
            _log.error("%s", words)


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca_file)
    if tls.cert_file is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
