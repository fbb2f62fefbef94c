"""Which backend keeps a response that an engine stores (`store` of `/v1/responses`).

Only that one can go on from it, or show, cancel and delete it. What is remembered is
bounded; the oldest is forgotten first, and what follows it then goes by load.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

_PATH: Final = "/v1/responses/"
_MOST: Final = 65_536


class StoredResponses:
    """The backends of the last `most` responses, by the responses' ids. Each call is O(1)."""

    def __init__(self, most: int = _MOST) -> None:
        self._backends: OrderedDict[str, str] = OrderedDict()
        self._most = most

    def keep(self, response_id: str, backend: str) -> None:
        """The backend of this name has answered with this response."""
        self._backends[response_id] = backend
        self._backends.move_to_end(response_id)
        if len(self._backends) > self._most:
            self._backends.popitem(last=False)

    def backend_of(self, response_id: str | None) -> str | None:
        """The name of the backend that has it, as far as it is remembered."""
        return None if response_id is None else self._backends.get(response_id)

    def named_in(self, path: str) -> str | None:
        """Likewise for a path as `/v1/responses/ID/cancel`."""
        if not path.startswith(_PATH):
            return None
        return self.backend_of(path.removeprefix(_PATH).partition("/")[0])
