"""What comes in at the public port.

1. A request to a path whose prompts we know is read, understood, and placed. All else goes
   to the least busy backend.
2. `/v1/models`, `/health` and `/openapi.json` are the router's own. Of the paths that it
   knows, methods that they do not take are refused here; `OPTIONS`, which browsers ask
   before others, is the engines'.
3. More requests than `max_in_flight` are turned away, with the time after which to come
   again.
"""

from __future__ import annotations

import asyncio
import logging

import aiohttp
import msgspec
from aiohttp import web

from preble_plugin.adapter.faults import Faults
from preble_plugin.serve.asked import Asked, understand
from preble_plugin.serve.config import ServeConfig
from preble_plugin.serve.errors import AGAIN_SECONDS, RouterError
from preble_plugin.serve.fleet import Fleet
from preble_plugin.serve.kinds import HEALTH, KINDS, METHODS, MODELS, OPENAPI, Kind
from preble_plugin.serve.metrics import RouterMetrics
from preble_plugin.serve.openapi import document
from preble_plugin.serve.relay import CutShort
from preble_plugin.serve.sending import Sender

_log = logging.getLogger(__name__)


class Router:
    """Answers each request; used from one event loop."""

    def __init__(self, config: ServeConfig, fleet: Fleet, session: aiohttp.ClientSession) -> None:
        self.metrics = RouterMetrics()
        self.draining = False
        """No more requests come: not ready."""
        self._fleet = fleet
        self._config = config
        self._sender = Sender(config, fleet, session, self.metrics)
        self._in_flight = 0
        self._openapi = document()
        self._faults = Faults(_log, "the router", "choice by load")

    def configure(self, config: ServeConfig) -> None:
        """Take on limits and timeouts."""
        self._config = config
        self._sender.configure(config)

    @property
    def in_flight(self) -> int:
        """Requests that are not answered to the end."""
        return self._in_flight

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            return await self._answer(request)
        except RouterError as error:
            self.metrics.refused(error.code)
            return error.response()
        except CutShort as error:
            _log.warning("backend %s broke off within an answer: %s", error.backend, error)
            self.metrics.failed(error.backend, "cut")
            if request.transport is not None:
                request.transport.close()  # what is missing is to be seen
            return error.response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path, method = request.path, request.method
        if method != "OPTIONS" and (takes := METHODS.get(path)) is not None:
            if method not in takes:
                allow = ", ".join(takes)
                raise RouterError(
                    405, "method_not_allowed", f"{path} takes {allow}, not {method}", allow=allow
                )
            if (own := self._own(path)) is not None:
                return own
        kind = KINDS.get(path) if method != "OPTIONS" else None
        if path == "/metrics" or (kind is None and not self._passes(path)):
            raise RouterError(404, "not_found", f"there is no {path} here")
        if self._in_flight >= self._config.max_in_flight:
            raise RouterError(
                429, "too_many_requests", "too many requests are in flight", AGAIN_SECONDS
            )
        self._in_flight += 1
        try:
            body = await self._body(request)
            asked = self._understood(kind, body)
            if kind is None or asked is None:
                return await self._sender.by_load(request, body, kind is not None)
            return await self._sender.placed(request, kind, asked, body)
        finally:
            self._in_flight -= 1

    def _understood(self, kind: Kind | None, body: bytes) -> Asked | None:
        try:
            return None if kind is None else understand(kind, body)
        except Exception:
            self._faults.note("understanding a request")
            return None

    def _own(self, path: str) -> web.Response | None:
        if path == HEALTH:
            return self._health()
        if path == MODELS:
            cards = {"object": "list", "data": self._fleet.cards()}
            return _json(msgspec.json.encode(cards))
        if path == OPENAPI:
            return _json(self._openapi)
        return None

    def _passes(self, path: str) -> bool:
        return self._config.pass_through or path in METHODS or path.startswith(MODELS + "/")

    def _health(self) -> web.Response:
        up = len(self._fleet.up)
        ready = bool(up) and not self.draining
        told = msgspec.json.encode({"ready": ready, "backends_up": up})
        return _json(told, 200 if ready else 503)

    async def _body(self, request: web.BaseRequest) -> bytes:
        try:
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0  # of the answer, nothing is sent yet
            async with asyncio.timeout(self._config.body_timeout_seconds):
                return await request.read()
        except TimeoutError:
            raise RouterError(
                408,
                "request_timeout",
                f"the request did not come whole in {self._config.body_timeout_seconds:g} s",
            ) from None
        except web.HTTPRequestEntityTooLarge:
            raise RouterError(
                413,
                "request_too_large",
                f"the request is larger than {self._config.max_body_megabytes:g} MB",
            ) from None


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")
