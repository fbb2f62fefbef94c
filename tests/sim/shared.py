"""How much two requests share."""

from __future__ import annotations

from preble_plugin.sim.asked import Asked
from preble_plugin.sim.sharing import table_row


def shared(one: Asked, other: Asked) -> float:
    """Tokens that the second shares with the first."""
    return table_row([one, other]).shared * 2 * other.prompt_tokens
