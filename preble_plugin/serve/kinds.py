"""The paths whose requests are placed by their prompts."""

from __future__ import annotations

from enum import Enum
from typing import Final


class Kind(Enum):
    """What a request wants, by its path."""

    COMPLETION = "completion"
    CHAT = "chat"
    RESPONSES = "responses"
    EMBEDDING = "embedding"
    GENERATE = "generate"


KINDS: Final = {
    "/v1/completions": Kind.COMPLETION,
    "/v1/chat/completions": Kind.CHAT,
    "/v1/responses": Kind.RESPONSES,
    "/v1/embeddings": Kind.EMBEDDING,
    "/generate": Kind.GENERATE,
}
