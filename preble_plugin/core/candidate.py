"""One replica as a policy sees it for one request; costs are computed when asked for."""

from __future__ import annotations

from collections.abc import Callable

from preble_plugin.core.active_blocks import ActiveBlocks
from preble_plugin.core.hits import Loads
from preble_plugin.core.receipts import NOT_ASKED, LookedAt
from preble_plugin.core.replica import Replica
from preble_plugin.core.request import ReplicaId


class ReplicaCandidate:
    """One replica for one request (`policies.protocol.Candidate`)."""

    __slots__ = (
        "_active",
        "_eviction",
        "_load",
        "_now",
        "_prefill",
        "_prompt_tokens",
        "hit_tokens",
        "loads",
        "miss_tokens",
        "source",
    )

    def __init__(
        self,
        source: Replica,
        prompt_tokens: int,
        hit_tokens: int,
        worth: float,
        loads: Loads,
        now: float,
        active: Callable[[], ActiveBlocks],
    ) -> None:
        self.source = source
        self.hit_tokens = hit_tokens
        self.loads = loads
        """Tokens of the hit that are loaded, by medium."""
        self.miss_tokens = prompt_tokens - int(worth)
        self._prompt_tokens = prompt_tokens
        self._now = now
        self._active = active
        self._load = NOT_ASKED
        self._eviction = NOT_ASKED
        self._prefill = NOT_ASKED

    @property
    def replica(self) -> ReplicaId:
        """Its name."""
        return self.source.name

    @property
    def index(self) -> int:
        """Its slot."""
        return self.source.index

    @property
    def load_seconds(self) -> float:
        """L."""
        seconds = self._load
        if seconds is NOT_ASKED:
            seconds = self._load = self.source.load.load_seconds(self._now)
        return seconds

    @property
    def window_load_seconds(self) -> float:
        """L over the window."""
        return self.source.load.window_load_seconds(self._now)

    @property
    def eviction_seconds(self) -> float:
        """M."""
        seconds = self._eviction
        if seconds is NOT_ASKED:
            source = self.source
            blocks = self.evicted_blocks
            seconds = 0.0
            if blocks:
                seconds = source.eviction.uses_lost_seconds(blocks, self._now)
                if seconds:
                    # What was used in the window was so by a request assigned in it.
                    seconds /= max(1, source.load.requests_in_window(self._now))
            self._eviction = seconds
        return seconds

    @property
    def prefill_seconds(self) -> float:
        """P."""
        seconds = self._prefill
        if seconds is NOT_ASKED:
            model = self.source.model
            seconds = model.prefill_seconds(self.miss_tokens, self._prompt_tokens)
            self._prefill = seconds
        return seconds

    @property
    def evicted_blocks(self) -> int:
        """Blocks to be evicted to make room."""
        missing = self.miss_tokens
        if self.loads:
            # What is loaded takes room on the GPU as what is computed does.
            loaded = sum(tokens for _, tokens in self.loads)
            missing = self._prompt_tokens - self.hit_tokens + loaded
        return self.source.evicted_blocks(missing)

    @property
    def waiting(self) -> int:
        """Requests without a token yet."""
        return self.source.load.waiting

    @property
    def running(self) -> int:
        """Requests that decode."""
        return self.source.load.running

    @property
    def decode_share(self) -> float:
        """Share of decode in the window's work."""
        return self.source.load.decode_share(self._now)

    @property
    def queued_tokens(self) -> int:
        """New tokens of those waiting."""
        return self.source.load.queued_tokens

    @property
    def tokens_in_flight(self) -> int:
        """Prompt tokens of requests in flight."""
        return self.source.tokens_in_flight

    @property
    def active_blocks(self) -> int:
        """Blocks of the prompts in flight, each once."""
        return self._active().on(self.source.name)

    @property
    def cache_usage(self) -> float:
        """Share of the cache that these fill."""
        capacity = self.source.capacity_blocks
        return min(1.0, self.active_blocks / capacity) if capacity else 0.0

    def price(self) -> None:
        """Ask for what costs little to know, for the receipt: all but M."""
        _ = self.load_seconds, self.prefill_seconds

    def looked_at(self) -> LookedAt:
        """Its hit, its requests in flight, and the costs that were asked for. O(1)."""
        source = self.source
        return (
            source.column,
            self.hit_tokens,
            self._load,
            self._eviction,
            self._prefill,
            source.load.in_flight,
        )
