"""A backend of an engine that is not known: OpenAI's API and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preble_plugin.serve.facts import Ask, Facts, base_model
from preble_plugin.serve.kinds import Kind


class OtherHttp:
    """One rank, no events, blocks of whatever size the others have."""

    engine = "unknown"
    health_seconds = 0.0
    wraps_text = False
    turns_developers = False

    async def learn(self, ask: Ask, cards: tuple[dict[str, Any], ...]) -> Facts:
        """What its model list says. Raises `AskError`."""
        model, adapters = base_model(cards)
        root = next((card.get("root") for card in cards if card["id"] == model), None)
        return Facts(
            engine=self.engine,
            cards=cards,
            model=model,
            adapters=adapters,
            tokenizer=root if isinstance(root, str) else None,
            remarks=("it is no engine that is known: its cache is guessed at",),
        )

    def answer_id(self, kind: Kind, request_id: str) -> str | None:
        """Not known."""
        return None

    def rank_in_body(self, kind: Kind) -> str | None:
        """None."""
        return None

    def namespace_in_events(self, body: Mapping[str, Any]) -> bool:
        """There are no events."""
        return True

    def tools(self, tools: list[Any]) -> list[Any]:
        """As they came."""
        return tools
