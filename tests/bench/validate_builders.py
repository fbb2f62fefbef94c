"""Plain builders for the tests of `benchmarks.validate`."""

import random
from collections.abc import Sequence

from benchmarks.validate.asking import Heard
from benchmarks.validate.compare import Beside, Run
from benchmarks.validate.fit import Fitted, Front, Sample
from benchmarks.validate.scaling import Cell
from preble_plugin.sim.asked import Asked, Part
from preble_plugin.sim.fleet import Fleet
from preble_plugin.sim.hardware import DecodeAttention, Hardware, LinearPiece, PrefillAttention

KNOWN = Hardware(
    name="known",
    source="made up",
    kv_tokens=4096,
    batch_tokens=512,
    max_running=32,
    linear=(LinearPiece(17, 12.0, 0.2), LinearPiece(0, 14.0, 0.5, -1e-4)),
    prefill=PrefillAttention(per_product=2e-4),
    decode=DecodeAttention(per_context=3e-4),
)
"""A small replica: some 0.5 ms a token of a prompt."""


def fitted(front_seconds: float = 0.0) -> Fitted:
    return Fitted(KNOWN, Front(front_seconds), samples=54, median_error=0.03, worst_error=0.2)


def asked(name: str, at: float, after: str | None = None, tokens: int = 100) -> Asked:
    """A request with a prompt and an answer of its own."""
    stream = sum(map(ord, name))
    return Asked(name, at, (Part(stream, tokens),), 5, after=after, answer=stream + 10_000)


def heard(name: str, ttft: float, latency: float, error: str | None = None) -> Heard:
    return Heard(name, 0.0, 0.0, ttft, latency, 100, 0, 5, error)


def timings(front_seconds: float, noise: float = 0.0) -> list[Sample]:
    """What requests of many shapes take on `KNOWN` behind a front end."""
    draw = random.Random(3)

    def noisy(seconds: float) -> float:
        return seconds * draw.uniform(1 - noise, 1 + noise)

    prefills = [
        Sample(
            new,
            cached + new,
            0,
            noisy(KNOWN.prefill_seconds(new, cached + new) + front_seconds),
        )
        for cached in (0, 512, 1024)
        for new in (8, 16, 32, 64, 128, 256, 512, 1024)
    ]
    steps = [
        Sample(0, context * batch, batch, noisy(KNOWN.step_seconds([], batch, context * batch)))
        for batch in (1, 2, 4, 8, 16, 24)
        for context in (64, 512, 1024)
    ]
    return prefills + steps


def answers_of(workload: Sequence[Asked], engine: Fitted, policy: str) -> list[Heard]:
    """What a client would hear of a simulated engine of two ranks."""
    seconds = engine.front.seconds
    return [
        Heard(
            one.request_id,
            one.arrived,
            0.0,
            one.first_token - one.arrived + seconds,
            one.ended - one.arrived + seconds,
            one.prompt_tokens,
            one.cached_tokens,
            one.output_tokens,
        )
        for one in Fleet(engine.hardware, 2, policy, block_size=32).serve(workload)
    ]


def run(*answers: Heard) -> Run:
    return Run("vllm", "e2", Cell("hot", 4.0, len(answers), 1), 0.0, [], list(answers))


def beside(policy: str, latency: float, simulated: float, workload: str = "hot") -> Beside:
    """Real and simulated mean latency; first tokens after half of it."""
    return Beside(
        workload, 4.0, policy, 1, latency / 2, simulated / 2, latency, simulated, 0.5, 0.5, 0.0
    )
