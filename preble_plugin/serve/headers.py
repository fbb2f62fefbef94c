"""Which header fields go on, in either direction.

Fields about one connection stay on it (RFC 9110, 7.6.1): those of the list below, and
those that `Connection` names. Lengths are stated anew for what is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from multidict import CIMultiDict, CIMultiDictProxy

HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
RANK: Final = "X-data-parallel-rank"
"""Names a rank of a backend: vLLM (entrypoints/generate/base/serving.py), and SGLang on its
OpenAI paths (entrypoints/openai/serving_base.py)."""
REQUEST_ID: Final = "X-Request-Id"


def forwarded(fields: CIMultiDictProxy[str], but: Iterable[str] = ()) -> CIMultiDict[str]:
    """The fields that go on, but for those named in lower case. O(fields)."""
    stays: frozenset[str] | set[str] = HOP_BY_HOP
    named = fields.getall("Connection", None)
    if named or but:
        stays = {*HOP_BY_HOP, *but}
        stays.update(name.strip().lower() for field in named or () for name in field.split(","))
    sent = CIMultiDict[str]()
    for name, value in fields.items():
        if name.lower() not in stays:
            sent.add(name, value)
    return sent
