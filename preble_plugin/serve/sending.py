"""A request's way to the backend that answers it.

1. A request with a prompt is placed by the scheduler of its model's pool, any other goes
   to the least busy backend.
2. What fails before a byte of its answer came is tried elsewhere. A request that need not
   be safe to send twice (not one of the paths we know) only where it was never taken.
3. What belongs to a response that an engine has stored goes to that engine first.
4. Where no backend is up, or none answers, the router says so itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

import aiohttp
from aiohttp import web

from preble_plugin.core import Request
from preble_plugin.core.events import namespace
from preble_plugin.serve.asked import Asked, named_model
from preble_plugin.serve.backend import Backend, State
from preble_plugin.serve.config import ServeConfig
from preble_plugin.serve.errors import AGAIN_SECONDS, RouterError
from preble_plugin.serve.fleet import Fleet
from preble_plugin.serve.headers import RANK, REQUEST_ID, forwarded
from preble_plugin.serve.journey import Journey, least_busy
from preble_plugin.serve.kinds import Kind
from preble_plugin.serve.metrics import RouterMetrics
from preble_plugin.serve.pool import Pool
from preble_plugin.serve.reading import Reading
from preble_plugin.serve.relay import Busy, NotAnswered, Relay
from preble_plugin.serve.stored import StoredResponses

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""
_LONGEST_ID: Final = 256
_ANEW: Final = ("host", "content-length", "expect")
"""Fields of a request that are stated anew, or are between the client and us."""


class Sender:
    """Sends requests to the backends of `fleet`."""

    def __init__(
        self,
        config: ServeConfig,
        fleet: Fleet,
        session: aiohttp.ClientSession,
        metrics: RouterMetrics,
    ) -> None:
        self._session = session
        self._fleet = fleet
        self._metrics = metrics
        self._stored = StoredResponses()
        self._flying: set[str] = set()
        self.configure(config)

    def configure(self, config: ServeConfig) -> None:
        """Take on limits and timeouts."""
        self._attempts = config.attempts
        self._relay = Relay(
            self._session,
            aiohttp.ClientTimeout(
                total=None,
                sock_connect=config.connect_timeout_seconds,
                sock_read=config.silence_timeout_seconds,
            ),
        )

    async def placed(
        self, request: web.BaseRequest, kind: Kind, asked: Asked, body: bytes
    ) -> web.StreamResponse:
        """Answer a request by its prompt. Raises `RouterError`."""
        pool = self._fleet.pools.of(asked.model)
        if pool is None and len(self._fleet.pools):
            served = ", ".join(sorted(str(card["id"]) for card in self._fleet.cards()))
            raise RouterError(
                404,
                "model_not_found",
                f"the model {asked.model!r} is not served here; there are: {served}",
            )
        if pool is None or not pool.backends:
            raise self._nobody()
        request_id = self._request_id(request)
        self._flying.add(request_id)
        try:
            journey = await self._journey(pool, kind, asked, request, request_id)
        except RouterError:
            raise
        except Exception:
            pool.faults.note("place")
            return await self.by_load(request, body, True, pool)
        else:
            try:
                return await self._carry(request, kind, body, journey)
            finally:
                journey.dropped()
        finally:
            self._flying.discard(request_id)

    async def _journey(
        self, pool: Pool, kind: Kind, asked: Asked, request: web.BaseRequest, request_id: str
    ) -> Journey:
        tokens = await pool.prompts.tokens(asked.prompt)
        if not pool.backends:
            raise self._nobody()
        dialect = pool.backends[0].dialect
        base = asked.model is None or asked.model in pool.aliases
        adapter = None if base else asked.model
        space = namespace(adapter, None, asked.salt)
        if asked.extra_key:
            space = (*space, "extra_key", asked.extra_key)
        keys = pool.keys(tokens, space)
        return Journey(
            pool,
            Request(
                request_id,
                keys,
                len(tokens) if tokens is not None else 0,
                external_id=dialect.answer_id(kind, request_id),
                max_output_tokens=asked.max_output_tokens,
                fixed_replica=self._fixed(pool, request, asked),
            ),
            Reading(kind),
            single=asked.prompts == 1 and kind is not Kind.EMBEDDING,
            told_by_events=adapter is None and dialect.namespace_in_events(asked.body),
        )

    async def _carry(
        self, request: web.BaseRequest, kind: Kind, body: bytes, journey: Journey
    ) -> web.StreamResponse:
        failed: NotAnswered | None = None
        fields = forwarded(request.headers, (*_ANEW, RANK.lower()))
        request_id = fields.setdefault(REQUEST_ID, journey.request_id)
        for _ in range(self._attempts):
            found = journey.next()
            if found is None:
                break
            backend, rank = found
            headers, sent = fields.copy(), body
            if backend.ranks > 1 and not backend.names_rank(kind):
                journey.anywhere()
            elif backend.ranks > 1:
                key = backend.dialect.rank_in_body(kind)
                if key is None:
                    headers[RANK] = str(rank)
                else:
                    sent = with_number(body, key, rank)
            try:
                answer = await self._relay(
                    request, backend, sent, headers, journey, {REQUEST_ID: request_id}
                )
            except NotAnswered as error:
                failed = error
                self._note(backend, error)
                continue
            self._metrics.answered(backend.name, answer.status)
            if kind is Kind.RESPONSES and (stored := journey.reading.answer_id):
                self._stored.keep(stored, backend.name)
            return answer
        return self._failure(failed)

    def _fixed(self, pool: Pool, request: web.BaseRequest, asked: Asked) -> str | None:
        """The replica that the user fixed: this rank of the least busy backend that has it.
        Of the backend that stored what the request goes on from, where there is one."""
        field = request.headers.get(RANK)
        rank = int(field) if field and field.isdigit() and len(field) < 6 else asked.rank
        keeper = self._stored.backend_of(asked.previous)
        if rank is None and keeper is None:
            return None
        having = [one for one in pool.backends if (rank or 0) < one.ranks]
        found = _named(having, keeper) or least_busy(having, set())
        if found is None:
            return None
        return str(found.replica(found.in_flight % found.ranks if rank is None else rank))

    # -- by load -------------------------------------------------------------------

    async def by_load(
        self, request: web.BaseRequest, body: bytes, again: bool, pool: Pool | None = None
    ) -> web.StreamResponse:
        """Answer a request by load, from the backends of `pool` or of the model that it
        names; `again` says that it may be sent twice. Raises `RouterError`."""
        if pool is None and len(self._fleet.pools) > 1:
            pool = self._fleet.pools.of(named_model(body))
        fields = forwarded(request.headers, _ANEW)
        tried: set[str] = set()
        failed: NotAnswered | None = None
        keeper = self._stored.named_in(request.path)
        for _ in range(self._attempts):
            backends = self._fleet.up if pool is None else pool.backends
            backend = None if tried else _named(backends, keeper)
            backend = backend or least_busy(backends, tried)
            if backend is None:
                break
            tried.add(backend.name)
            try:
                answer = await self._relay(request, backend, body, fields.copy(), None, {})
            except NotAnswered as error:
                failed = error
                self._note(backend, error)
                if not (again or request.method in SAFE or error.unreached):
                    break
                continue
            self._metrics.answered(backend.name, answer.status)
            return answer
        return self._failure(failed)

    # -- failures ------------------------------------------------------------------

    def _note(self, backend: Backend, error: NotAnswered) -> None:
        self._metrics.failed(backend.name, error.cause)
        if error.unreached:
            self._fleet.failed(backend, str(error))
        elif not isinstance(error, Busy):
            self._fleet.poke(backend)

    def _failure(self, failed: NotAnswered | None) -> web.StreamResponse:
        if failed is None:
            raise self._nobody()
        if isinstance(failed, Busy):
            if failed.response.status in (429, 503):
                failed.response.headers.setdefault("Retry-After", str(AGAIN_SECONDS))
            return failed.response
        if failed.cause == "silence":
            raise RouterError(504, "backend_timeout", "the backend did not answer in time")
        raise RouterError(
            502, "backend_failed", "no backend could answer", AGAIN_SECONDS
        ) from failed

    def _nobody(self) -> RouterError:
        return RouterError(503, "no_backend", "no backend is up", AGAIN_SECONDS)

    def _request_id(self, request: web.BaseRequest) -> str:
        given = request.headers.get(REQUEST_ID)
        if not given or len(given) > _LONGEST_ID:
            return secrets.token_hex(16)
        while given in self._flying:
            given = f"{given[:_LONGEST_ID]}-{secrets.token_hex(4)}"
        return given


def with_number(body: bytes, key: str, value: int) -> bytes:
    """A JSON object with one key more, which it does not have. The rest stays as it is."""
    start = body.index(b"{") + 1
    comma = b"" if body[start:].lstrip().startswith(b"}") else b","
    return b'%s"%s":%d%s%s' % (body[:start], key.encode(), value, comma, body[start:])


def _named(backends: Sequence[Backend], name: str | None) -> Backend | None:
    """The one of this name that is up."""
    return next((one for one in backends if one.name == name and one.state is State.UP), None)
