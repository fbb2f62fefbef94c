"""Where to connect: a publisher's address, checked and made connectable.

Publishers name the address they bind, which may be a wildcard: from the same
machine it is reached over loopback. Across machines the front end has to be
given the publisher's own host.
"""

from __future__ import annotations

import re
from typing import Final

LONGEST_IPC_PATH: Final = 107
"""Bytes in the path of a local socket (Linux: `sun_path`)."""

_TCP: Final = re.compile(r"tcp://(\*|[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]):(\d{1,5})")
_LOOPBACK: Final = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


class EndpointError(ValueError):
    """An address that nothing can connect to; the message says what is wrong."""


def connectable(endpoint: str) -> str:
    """The address to connect to for what was published or bound at `endpoint`.

    Raises `EndpointError`.
    """
    scheme, _, rest = endpoint.partition("://")
    if scheme == "tcp":
        if (found := _TCP.fullmatch(endpoint)) is None:
            raise EndpointError(f"event endpoint {endpoint!r} is not tcp://HOST:PORT")
        host, port = found[1], int(found[2])
        if not 1 <= port <= 65535:
            raise EndpointError(
                f"event endpoint {endpoint!r} has no port to connect to: give the one that "
                "was bound, from 1 to 65535"
            )
        return f"tcp://{_LOOPBACK.get(host, host)}:{port}"
    if scheme == "ipc":
        if not rest or rest == "*":
            raise EndpointError(f"event endpoint {endpoint!r} names no path to connect to")
        if len(rest.encode()) > LONGEST_IPC_PATH:
            raise EndpointError(
                f"event endpoint {endpoint!r} has a path of more than {LONGEST_IPC_PATH} "
                "bytes: use a shorter directory"
            )
        return endpoint
    if scheme == "inproc" and rest:
        return endpoint
    raise EndpointError(
        f"event endpoint {endpoint!r} is not one of tcp://HOST:PORT, ipc://PATH, inproc://NAME"
    )
