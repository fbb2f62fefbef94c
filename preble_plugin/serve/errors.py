"""The router's own errors, in the shape of OpenAI's API."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp import web

AGAIN_SECONDS: Final = 1
"""After which a client that was turned away may come again."""
_TYPES: Final = {
    400: "invalid_request_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


class RouterError(Exception):
    """An answer of the router's own: `status`, and what OpenAI's clients make of it.
    `allow` names the methods that a path takes."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        retry_after_seconds: int | None = None,
        *,
        allow: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self._headers: dict[str, str] = {}
        if retry_after_seconds is not None:
            self._headers["Retry-After"] = str(retry_after_seconds)
        if allow is not None:
            self._headers["Allow"] = allow

    def response(self) -> web.Response:
        """The answer, to be sent as it is."""
        return web.Response(
            status=self.status,
            body=self.body(),
            content_type="application/json",
            headers=self._headers,
        )

    def body(self) -> bytes:
        """The answer's body."""
        return msgspec.json.encode(
            {
                "error": {
                    "message": str(self),
                    "type": _TYPES.get(self.status, "server_error"),
                    "param": None,
                    "code": self.code,
                }
            }
        )
