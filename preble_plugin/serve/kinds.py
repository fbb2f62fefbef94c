"""The paths that the router knows, and what each is for."""

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
"""Placed by their prompts."""
HEALTH: Final = "/health"
MODELS: Final = "/v1/models"
OPENAPI: Final = "/openapi.json"
METHODS: Final = {
    **dict.fromkeys(KINDS, ("POST",)),
    "/generate": ("POST", "PUT"),
    **dict.fromkeys((HEALTH, MODELS, OPENAPI), ("GET", "HEAD")),
}
"""What each of them takes; whether a browser may ask (`OPTIONS`) the engines say."""
