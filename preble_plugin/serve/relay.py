"""A request to a backend, and its answer back, piece by piece.

1. Until the first byte of a body has come, nothing goes to the client: a backend that fails
   before that can be made up for by another.
2. A short answer that comes whole goes on whole. All else goes on as it comes, no faster
   than the client takes it.
3. Where the client leaves, the connection to the backend is closed, which ends the
   request there. Where the backend breaks off, so does the answer: its client sees that
   it is not complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from preble_plugin.serve.backend import Backend
from preble_plugin.serve.headers import forwarded
from preble_plugin.serve.journey import Journey

_WHOLE_BYTES: Final = 1 << 20
"""An answer up to this size is taken in before it goes on."""
_BUSY: Final = frozenset({429, 502, 503, 504})
"""Answers that another backend may do better."""
_EVENTS: Final = "text/event-stream"


class NotAnswered(Exception):
    """No byte of an answer came. `unreached`: the request was never taken."""

    def __init__(self, cause: str, words: str, *, unreached: bool = False) -> None:
        super().__init__(words)
        self.cause = cause
        self.unreached = unreached


class Busy(NotAnswered):
    """A backend answered that it cannot now; `response` is what it said."""

    def __init__(self, response: web.Response) -> None:
        super().__init__("busy", f"answered with {response.status}")
        self.response = response


class CutShort(Exception):
    """A backend broke off within its answer, of which `response` has been sent."""

    def __init__(self, backend: str, words: str, response: web.StreamResponse) -> None:
        super().__init__(words)
        self.backend = backend
        self.response = response


class Relay:
    """Sends to backends over `session`, which keeps connections to them open."""

    def __init__(self, session: aiohttp.ClientSession, timeout: aiohttp.ClientTimeout) -> None:
        self._session = session
        self._timeout = timeout

    async def __call__(
        self,
        request: web.BaseRequest,
        backend: Backend,
        body: bytes,
        headers: CIMultiDict[str],
        journey: Journey | None,
        answer_headers: Mapping[str, str],
    ) -> web.StreamResponse:
        """Send `request` with `body` and `headers` to `backend`, and its answer to the
        client. Raises `NotAnswered`, `CutShort`, or `ConnectionError` where the client left."""
        if backend.authorization is not None and "Authorization" not in headers:
            headers["Authorization"] = backend.authorization
        if backend.host_field is not None:
            headers["Host"] = backend.host_field
        backend.in_flight += 1
        answer: aiohttp.ClientResponse | None = None
        done = False
        try:
            try:
                answer = await self._session.request(
                    request.method,
                    backend.url(request.rel_url.raw_path_qs),
                    data=body or None,
                    headers=headers,
                    allow_redirects=False,
                    timeout=self._timeout,
                    **backend.options,
                )
                first = await self._first(answer)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise _not_answered(error) from error
            fields = forwarded(answer.headers)
            for name, value in answer_headers.items():
                fields.setdefault(name, value)
            if answer.content.at_eof():
                done = True
                return _whole(answer, fields, first, journey)
            sent = await _stream(request, backend.name, answer, fields, first, journey)
            done = True
            return sent
        finally:
            backend.in_flight -= 1
            if answer is not None:
                if done:
                    answer.release()
                else:
                    answer.close()

    async def _first(self, answer: aiohttp.ClientResponse) -> bytes:
        """The body so far: whole where it is short and its length is known."""
        length = answer.content_length
        if length is not None and length <= _WHOLE_BYTES:
            return await answer.read()
        return await answer.content.readany()


def _whole(
    answer: aiohttp.ClientResponse,
    fields: CIMultiDict[str],
    body: bytes,
    journey: Journey | None,
) -> web.Response:
    """An answer that is complete. Raises `Busy`."""
    fields.popall("Content-Length", None)
    response = web.Response(status=answer.status, reason=answer.reason, headers=fields, body=body)
    if answer.status in _BUSY:
        raise Busy(response)
    if journey is not None and answer.status < 300:
        if answer.content_type == _EVENTS:
            if journey.reading.stream(body):
                journey.started()
            journey.reading.end()
        else:
            journey.reading.whole(body)
        journey.finished()
    return response


async def _stream(
    request: web.BaseRequest,
    backend: str,
    answer: aiohttp.ClientResponse,
    fields: CIMultiDict[str],
    piece: bytes,
    journey: Journey | None,
) -> web.StreamResponse:
    """Pass an answer on from its first `piece`, and read along where it has one to tell."""
    response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=fields)
    if journey is not None and answer.status >= 300:
        journey = None
    events = answer.content_type == _EVENTS
    kept = bytearray()
    await response.prepare(request)
    while piece:
        if journey is not None:
            if not events:
                kept += piece
            elif journey.reading.stream(piece):
                journey.started()
        await response.write(piece)
        try:
            piece = await answer.content.readany()
        except (aiohttp.ClientError, TimeoutError) as error:
            words = str(error) or type(error).__name__
            raise CutShort(backend, words, response) from error
    await response.write_eof()
    if journey is not None:
        if events:
            journey.reading.end()
        else:
            journey.reading.whole(bytes(kept))
        journey.finished()
    return response


def _not_answered(error: Exception) -> NotAnswered:
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return NotAnswered("connect", str(error) or "no connection", unreached=True)
    if isinstance(error, TimeoutError):
        return NotAnswered("silence", "it said nothing in time")
    return NotAnswered("disconnect", str(error) or type(error).__name__)
