"""What work costs one replica, in seconds (PREBLE 3.2: prefill and decode time).

1. Prefill of `n` new tokens in a prompt of `c`:
   `a0 + a1 n + a2 c + a3 n c`: the step's fixed part, linear layers, reading
   the context's cache, attention of the new tokens over the context.
2. A decode step of `b` requests with `C` context tokens between them:
   `s0 + s1 b + s2 C`. One request's share of it is `s0 / b + s1 + s2 c`.
3. Both laws are sums over requests, so a queue is priced from its summed
   tokens, and requests that were observed together teach the model together.
4. The fleet starts from a rough prior and fits it to what any replica is seen
   to take (`OnlineFit`). A replica goes by the fleet's law until it has been
   observed `OWN_OBSERVATIONS` times, then by its own: were it to start from the
   prior, whichever was observed first would look fast or slow beside the rest,
   and take all work or none. Nothing is configured.

5. What a load from a slower medium costs is one number for each medium, seconds for each
   token, which the replicas of a fleet learn together. Before anything was loaded from
   it, a load is taken to cost a quarter of the computing that it saves.

What it does not follow is the plateau below some 256 new tokens, where a
prefill takes as long as the step's weights take to read: short prefills there
are priced a few milliseconds low or high.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from preble_plugin.core.online_fit import OnlineFit

PREFILL_PRIOR: Final = (1.1e-2, 1.0e-4, 2.5e-6, 1.7e-9)
"""Seconds per request, new token, context token and their product: the middle
of a 7B model on an A6000 or A100 and a 70B model on two A100 or H100; about
9,000 tokens/s at 2,048 tokens."""
DECODE_PRIOR: Final = (1.5e-2, 1.0e-4, 1.5e-7)
"""Seconds per step, request in it, and context token in it."""

RATED_PROMPT_TOKENS: Final = 2048
"""The uncached prompt at which `prefill_tokens_per_second` is stated."""

OWN_OBSERVATIONS: Final = 32
"""After so many, a replica's own law is as good as the fleet's and fits it better."""

FIRST_LOAD_SHARE: Final = 0.25
"""What a load costs of computing the same, until one was observed."""

_FLOOR_OBSERVATIONS: Final = 64
"""After so many, the least law of a fleet is found anew; between, it only falls."""
_TOKEN_LIMIT: Final = 1 << 40
_NO_SECONDS: Final = 1e-9


class TimeModel:
    """Prefill and decode seconds of one replica, calibrated as it works.

    `fleet` is the model that all replicas of a scheduler teach; without one, a
    model stands for itself. Predictions are finite and non-negative, and do not
    fall as tokens rise, whatever was observed. A prediction is plain arithmetic
    (about 0.2 us).
    """

    __slots__ = (
        "_decode",
        "_fleet",
        "_floor",
        "_floor_age",
        "_loads",
        "_prefill",
        "_step",
        "_work",
    )

    def __init__(self, fleet: TimeModel | None = None) -> None:
        self._fleet = fleet
        self._prefill = OnlineFit(PREFILL_PRIOR)
        self._decode = OnlineFit(DECODE_PRIOR)
        self._loads: dict[str, OnlineFit] = {} if fleet is None else fleet._loads
        # No coefficient of a member of this fleet is less.
        self._floor = list(PREFILL_PRIOR)
        self._floor_age = _FLOOR_OBSERVATIONS
        # The coefficients that hold now: lists that a fit changes in place.
        self._work = (fleet or self)._prefill.coefficients
        self._step = (fleet or self)._decode.coefficients
        self._lower()  # the floor may have been found while no member went by the fleet's law

    def prefill_seconds(self, new_tokens: int, prompt_tokens: int) -> float:
        """Seconds to compute `new_tokens` of a prompt of `prompt_tokens`, cached
        ones included; 0 where nothing is to be computed."""
        if not 0 < new_tokens < _TOKEN_LIMIT or not 0 <= prompt_tokens < _TOKEN_LIMIT:
            if new_tokens <= 0:
                return 0.0
            new_tokens = min(new_tokens, _TOKEN_LIMIT)
            prompt_tokens = min(max(prompt_tokens, 0), _TOKEN_LIMIT)
        fixed, linear, context, attention = self._work
        return fixed + linear * new_tokens + (context + attention * new_tokens) * prompt_tokens

    def queue_seconds(
        self, requests: int, new_tokens: int, context_tokens: int, new_times_context: int
    ) -> float:
        """Prefill seconds of several requests, from sums over them of the new
        tokens, the prompt tokens, and the product of the two."""
        fixed, linear, context, attention = self._work
        return (
            fixed * requests
            + linear * new_tokens
            + context * context_tokens
            + attention * new_times_context
        )

    def decode_seconds(self, output_tokens: float, prompt_tokens: float, running: int) -> float:
        """GPU seconds that decoding `output_tokens` after `prompt_tokens` takes
        from a replica, as a share of steps of `running` requests (itself counted)."""
        output = min(max(0.0, output_tokens), _TOKEN_LIMIT)
        context = min(max(0.0, prompt_tokens), _TOKEN_LIMIT) + output / 2
        return self.batch_seconds(output, output * context, running)

    def batch_seconds(
        self, output_tokens: float, output_times_context: float, running: int
    ) -> float:
        """Decode seconds of several requests, from sums over them of the output
        tokens and of each one's output tokens times its mean context."""
        fixed, each, per_token = self._step
        return (fixed / max(running, 1) + each) * output_tokens + per_token * output_times_context

    def observe_prefill(
        self,
        requests: float,
        new_tokens: float,
        context_tokens: float,
        new_times_context: float,
        seconds: float,
    ) -> bool:
        """Learn from `requests` that a replica prefilled in `seconds`, nothing else.

        The token figures are sums over them. False if the observation says nothing.
        About 6 us, for the fleet as much.
        """
        if self._fleet is not None:
            self._fleet.observe_prefill(
                requests, new_tokens, context_tokens, new_times_context, seconds
            )
        learned = new_tokens > 0 and self._prefill.observe(
            (requests, new_tokens, context_tokens, new_times_context), seconds
        )
        if self._prefill.observations >= OWN_OBSERVATIONS:
            self._work = self._prefill.coefficients
        self._lower()
        return learned

    def observe_load(self, medium: str, tokens: int, seconds: float) -> None:
        """Learn from `tokens` of a prompt that took `seconds` to load from a medium,
        beyond what the rest took to compute; less than none counts as none. About
        2 us."""
        fit = self._loads.get(medium)
        if fit is None:
            fit = self._loads[medium] = OnlineFit((FIRST_LOAD_SHARE * PREFILL_PRIOR[1],))
        fit.observe((tokens,), max(seconds, _NO_SECONDS))

    def load_share(self, medium: str, prompt_tokens: int) -> float:
        """What loading a token of a prompt of `prompt_tokens` from a medium costs, as a
        share of computing it, 1 at most: an engine loads what it finds, and a hit is
        never priced above a miss. O(1)."""
        fit = self._loads.get(medium)
        if fit is None:
            return FIRST_LOAD_SHARE
        _, linear, _, attention = self._work
        computed = linear + attention * prompt_tokens
        loaded = fit.coefficients[0]
        return loaded / computed if loaded < computed else 1.0

    def _lower(self) -> None:
        """Keep the fleet's floor at or below this law and the fleet's. O(1)."""
        fleet = self._fleet
        if fleet is not None:
            fleet._floor_age += 1
            own, common = self._work, fleet._prefill.coefficients
            fleet._floor = [min(known) for known in zip(fleet._floor, own, common, strict=True)]

    def observe_decode(
        self, output_tokens: float, context_tokens: float, running: float, seconds: float
    ) -> bool:
        """Learn from decode: `output_tokens` steps in `seconds`, with `running`
        requests and `context_tokens` between them in the batch on average. False if
        the observation says nothing. About 5 us, for the fleet as much."""
        if self._fleet is not None:
            self._fleet.observe_decode(output_tokens, context_tokens, running, seconds)
        learned = output_tokens > 0 and self._decode.observe(
            (1.0, running, context_tokens), seconds / output_tokens
        )
        if self._decode.observations >= OWN_OBSERVATIONS:
            self._step = self._decode.coefficients
        return learned

    @staticmethod
    def least_prefill_seconds(
        models: Sequence[TimeModel], new_tokens: int, prompt_tokens: int
    ) -> float:
        """At most the `prefill_seconds` of any of `models`, all those of one fleet, and
        mostly not much less. O(1) amortised."""
        fleet = models[0]._fleet or models[0]
        if fleet._floor_age >= _FLOOR_OBSERVATIONS:
            fleet._floor_age = 0
            fleet._floor = [
                min(known) for known in zip(*[one._work for one in models], strict=True)
            ]
        if not 0 < new_tokens < _TOKEN_LIMIT or not 0 <= prompt_tokens < _TOKEN_LIMIT:
            return 0.0
        fixed, linear, context, attention = fleet._floor
        return fixed + linear * new_tokens + (context + attention * new_tokens) * prompt_tokens

    @property
    def prefill_tokens_per_second(self) -> float:
        """Speed on an uncached prompt of `RATED_PROMPT_TOKENS`."""
        seconds = self.prefill_seconds(RATED_PROMPT_TOKENS, RATED_PROMPT_TOKENS)
        return RATED_PROMPT_TOKENS / max(seconds, 1e-9)

    @property
    def prefill_coefficients(self) -> tuple[float, ...]:
        """a0 to a3 as of now, in seconds."""
        return tuple(self._work)

    @property
    def decode_coefficients(self) -> tuple[float, ...]:
        """s0 to s2 as of now, in seconds."""
        return tuple(self._step)
