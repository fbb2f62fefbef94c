"""Timed requests of known shape, from which a replica's coefficients are fitted.

1. All ranks are asked at once, and each rests after a request for as long as that took:
   what they, and whatever else the machine does, take of each other's cores, caches and
   memory is in the times as it is at half load.
2. Prefill: a prefix that is cached, then so many new tokens, alone on its rank; the time
   is that of the first token.
3. Decode: requests at once whose prompts are cached but for their ends; the time of a step
   is that from first to last token, over the steps between them.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Iterator
from typing import Final

import httpx

from benchmarks.validate.asking import SPECIAL, complete
from benchmarks.validate.fit import Sample, by_kind
from preble_plugin.bench.open_loop import connected
from preble_plugin.bench.tiny_model import VOCABULARY

CACHED: Final = (0, 512, 1024)
NEW: Final = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
DECODING: Final = (1, 2, 3, 4, 6, 8, 12, 16)
CONTEXTS: Final = (64, 256, 512, 1024)
MOST_CONTEXT: Final = 4096
"""Tokens of all requests that decode together; a cache has to hold them."""
OWN: Final = 16
"""Tokens of a decoding request that are its own; the rest of its prompt is cached."""
STEPS: Final = 32


def time_requests(base_url: str, model: str, ranks: int, repeat: int, seed: int) -> list[Sample]:
    """`repeat` rounds of all shapes on each rank. Raises `RuntimeError` where one fails."""

    async def all_ranks() -> list[Sample]:
        async with connected(base_url) as client:
            found = await asyncio.gather(
                *(_Rank(client, model, rank, seed).rounds(repeat) for rank in range(ranks))
            )
        return [sample for of_rank in found for sample in of_rank]

    return asyncio.run(all_ranks())


class _Rank:
    """One rank, one request shape after the other."""

    def __init__(self, client: httpx.AsyncClient, model: str, rank: int, seed: int) -> None:
        self._client = client
        self._model = model
        self._rank = rank
        self._random = random.Random(seed * 1000 + rank)

    async def rounds(self, repeat: int) -> list[Sample]:
        await self._first(self._tokens(100), 4)  # what only a first request costs
        found: list[Sample] = []
        for _ in range(repeat):
            for cached in CACHED:
                prefix = self._tokens(cached)
                if prefix:
                    await self._first(prefix, 1)
                for new in NEW:
                    took = await self._first([*prefix, *self._tokens(new)], 1)
                    found.append(Sample(new, cached + new, 0, took))
            for context in CONTEXTS:
                for decoding in DECODING:
                    if decoding * context <= MOST_CONTEXT:
                        found.append(await self._decode(context, decoding))
        return found

    async def _decode(self, context: int, decoding: int) -> Sample:
        prefixes = [self._tokens(context) for _ in range(decoding)]
        for prefix in prefixes:
            await self._first(prefix, 1)
        took = await asyncio.gather(
            *(self._times([*prefix, *self._tokens(OWN)], STEPS + 1) for prefix in prefixes)
        )
        await asyncio.sleep(max(latency for _, latency in took))
        step = statistics.median((latency - ttft) / STEPS for ttft, latency in took)
        return Sample(0, decoding * (context + OWN + STEPS // 2), decoding, step)

    async def _first(self, prompt: list[int], output_tokens: int) -> float:
        ttft, latency = await self._times(prompt, output_tokens)
        await asyncio.sleep(latency)
        return ttft

    async def _times(self, prompt: list[int], output_tokens: int) -> tuple[float, float]:
        came = await complete(self._client, self._model, prompt, output_tokens, rank=self._rank)
        if came.error is not None or came.output_tokens != output_tokens:
            raise RuntimeError(f"a timed request failed: {came.error or 'it was cut short'}")
        return came.ttft_seconds, came.latency_seconds

    def _tokens(self, count: int) -> list[int]:
        return [self._random.randrange(SPECIAL, VOCABULARY) for _ in range(count)]


def scatter(samples: list[Sample]) -> float:
    """The median, over the shapes, of half the range of the middle half of its times over
    their median."""
    return statistics.median(_spreads(samples))


def _spreads(samples: list[Sample]) -> Iterator[float]:
    for seconds in by_kind(samples).values():
        if len(seconds) > 1:
            low, mid, high = statistics.quantiles(seconds, n=4)
            yield (high - low) / 2 / mid
