"""One running router: its ports, its signals, its end.

1. The public port answers at once; `/health` there says 503 until a backend is up.
2. Metrics and the state of the backends are at a port of their own, on loopback unless
   told otherwise; `preble status` and `preble explain` ask over the placement's admin
   socket.
3. SIGHUP, or a new version of the configuration file, changes backends, limits and
   timeouts while all runs. A file that cannot be used changes nothing.
4. SIGTERM or SIGINT: no new connections, and what is in flight has its time to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from preble_plugin.serve.config import ServeConfig, ServeConfigError
from preble_plugin.serve.fleet import Fleet
from preble_plugin.serve.router import Router

_log = logging.getLogger(__name__)
_http_log = logging.getLogger("preble_plugin.serve.http")
"""What the server of the ports has to say."""

_KEPT_SECONDS: Final = 4.0
"""An idle connection to a backend is given up before the engines' 5 s give it up."""
_FIXED: Final = (
    *("host", "port", "metrics_host", "metrics_port", "tls_cert_file", "tls_key_file"),
    *("backend_tls", "tokenizer", "chat_template", "tokenizer_threads"),
    *("tokenizer_cache_megabytes", "max_body_megabytes", "drain_timeout_seconds", "placement"),
)
"""What only a start can change."""


def _is_ours(record: logging.LogRecord) -> bool:
    """Not what a client did wrong, and is told: it would be quoted, with secrets in it."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


_http_log.addFilter(_is_ours)


class App:
    """A router of `config`. Where that came from a file, `path` is watched and `reread`
    gives what it says now."""

    def __init__(
        self,
        config: ServeConfig,
        path: Path | None = None,
        reread: Callable[[], ServeConfig] | None = None,
    ) -> None:
        self.config = config
        self._path = path
        self._reread = reread
        self._changed = asyncio.Event()
        self._ending = asyncio.Event()
        self._runners: list[web.ServerRunner] = []
        self._closing: asyncio.Task[None] | None = None
        self.port = 0
        """The public port, once started."""
        self.metrics_port: int | None = None

    async def start(self) -> None:
        """Open the ports and begin to look for backends. Raises `OSError`."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_SECONDS)
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        self.fleet = Fleet(self.config, self._session, self._changed.set)
        self.router = Router(self.config, self.fleet, self._session)
        self.port = await self._listen(
            self.router, self.config.host, self.config.port, _server_tls(self.config)
        )
        if self.config.metrics_port is not None:
            self.metrics_port = await self._listen(
                self._inside, self.config.metrics_host, self.config.metrics_port, None
            )
        await self.fleet.start()

    async def wait_until_up(self, backends: int = 1) -> None:
        """Until so many backends take requests."""
        while len(self.fleet.up) < backends:
            self._changed.clear()
            await self._changed.wait()

    async def run(self) -> None:
        """Serve until a signal, or `stop`, ends it. Then drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        watching = asyncio.create_task(self._watch(), name="configuration file")
        await self._ending.wait()
        watching.cancel()
        self._closing = asyncio.create_task(self.close(), name="close")
        with contextlib.suppress(asyncio.CancelledError):
            await self._closing

    def stop(self) -> None:
        """End `run`; called again, without waiting for requests."""
        if self._ending.is_set() and self._closing is not None:
            self._closing.cancel()
        self._ending.set()

    async def close(self) -> None:
        """Take no more connections, let requests end, and stop."""
        self.router.draining = True
        waiting = self.router.in_flight
        if waiting:
            seconds = self.config.drain_timeout_seconds
            _log.info("%d requests in flight have %g s to end", waiting, seconds)
        for runner in self._runners:
            await runner.cleanup()
        await self.fleet.close()
        await self._session.close()

    # -- changes -------------------------------------------------------------------

    def reload(self) -> None:
        """Read the configuration again and take on what changed."""
        try:
            new = self._reread() if self._reread is not None else self.config
        except ServeConfigError as error:
            _log.error("the configuration stays as it was: %s", error)
            return
        if new == self.config:
            _log.info("the configuration is as it was")
            return
        fixed = [key for key in _FIXED if getattr(new, key) != getattr(self.config, key)]
        if fixed:
            _log.warning("these take effect at the next start: %s", ", ".join(fixed))
        self.config = msgspec.structs.replace(
            new, **{key: getattr(self.config, key) for key in _FIXED}
        )
        self.router.configure(self.config)
        self._applying = asyncio.ensure_future(self.fleet.apply(self.config))
        _log.info("configuration read again: %d backend entries", len(self.config.backends))

    async def _watch(self) -> None:
        known = self._version()
        while self._path is not None:
            await asyncio.sleep(self.config.health_interval_seconds)
            if (now := self._version()) != known:
                known = now
                self.reload()

    def _version(self) -> tuple[int, int, int] | None:
        """Of the configuration file, what changes with it."""
        try:
            found = os.stat(self._path) if self._path is not None else None
        except OSError:
            return None
        return found and (found.st_ino, found.st_mtime_ns, found.st_size)

    # -- ports ---------------------------------------------------------------------

    async def _listen(self, handler: Any, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        most = int(self.config.max_body_megabytes * (1 << 20))
        loop = asyncio.get_running_loop()

        def request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> Any:
            return web.BaseRequest(
                message, payload, protocol, writer, task, loop, client_max_size=most
            )

        server = web.Server(
            handler,
            request_factory=request,
            handler_cancellation=True,
            access_log=None,
            logger=_http_log,
            auto_decompress=False,  # bodies go on as they came
            max_line_size=16_384,
            max_field_size=65_536,
        )
        runner = web.ServerRunner(server, shutdown_timeout=self.config.drain_timeout_seconds)
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, host, port, ssl_context=tls, backlog=1024).start()
        return int(runner.addresses[0][1])

    async def _inside(self, request: web.BaseRequest) -> web.StreamResponse:
        """The port of metrics."""
        if request.method == "GET":
            backends = self.fleet.backends
            if request.path == "/metrics":
                page = self.router.metrics.page(backends, self.router.in_flight)
                kind = self.router.metrics.content_type
                return web.Response(body=page, headers={"Content-Type": kind})
            if request.path == "/health":
                return web.Response(text="alive\n")
            if request.path == "/backends":
                return web.Response(
                    body=msgspec.json.encode([_shown(one) for one in backends]),
                    content_type="application/json",
                )
        return web.Response(status=404, text="there are /metrics, /health and /backends\n")


def _shown(backend: Any) -> dict[str, object]:
    facts = backend.facts
    return {
        "backend": backend.name,
        "state": backend.state.value,
        "cause": None if backend.state.value == "up" else backend.cause,
        "in_flight": backend.in_flight,
        "engine": facts and facts.engine,
        "model": facts and facts.model,
        "ranks": facts and facts.ranks,
        "block_size": facts and facts.block_size,
        "events": bool(facts and backend.exact and any(facts.events)),
    }


def _server_tls(config: ServeConfig) -> ssl.SSLContext | None:
    if config.tls_cert_file is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(config.tls_cert_file, config.tls_key_file)
    return context
