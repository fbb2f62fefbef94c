"""One request on one replica, from its arrival to its end."""

from __future__ import annotations

from collections.abc import Sequence

from preble_plugin.sim.asked import Asked


class Job:
    """What an engine keeps of a request. `tokens` are the prompt and the answer to be,
    `names` those of the blocks that become full."""

    __slots__ = (
        "arrived",
        "asked",
        "cached_tokens",
        "computed",
        "first_token_at",
        "generated",
        "named",
        "names",
        "output_tokens",
        "private",
        "prompt_tokens",
        "tokens",
    )

    def __init__(
        self, asked: Asked, tokens: Sequence[int], names: Sequence[int], arrived: float
    ) -> None:
        self.asked = asked
        self.tokens = tokens
        self.names = names
        self.arrived = arrived
        self.prompt_tokens = len(tokens) - asked.output_tokens
        self.output_tokens = asked.output_tokens
        self.computed = 0
        """Tokens whose KV is in the cache."""
        self.generated = 0
        self.named = 0
        """Blocks that it holds by name, from the first on."""
        self.private = 0
        self.cached_tokens: int | None = None
        """Found in the cache when it first was taken up."""
        self.first_token_at: float | None = None

    @property
    def total(self) -> int:
        """Tokens that there are so far."""
        return self.prompt_tokens + self.generated


def block_names(keys: bytes) -> list[int]:
    """Names of blocks with these keys: as an engine's hashes, each depends on all before
    it. O(blocks)."""
    names, parent = [], 0
    for key in memoryview(keys).cast("Q"):
        parent = hash((parent, key))
        names.append(parent)
    return names
