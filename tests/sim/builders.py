"""Small hardware and small workloads."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from preble_plugin.sim.asked import Asked, Part
from preble_plugin.sim.hardware import (
    DecodeAttention,
    Hardware,
    LinearPiece,
    PrefillAttention,
)


def hardware(**given: Any) -> Hardware:
    """A step takes 10 ms, a token 0.1 ms, context little."""
    plain = Hardware(
        name="small",
        source="made up",
        kv_tokens=4096,
        batch_tokens=256,
        max_running=8,
        linear=(LinearPiece(below=0, fixed=10.0, per_token=0.1),),
        prefill=PrefillAttention(per_context=1e-3, per_product=1e-6),
        decode=DecodeAttention(short=100, short_fixed=0.5, fixed=0.4, per_context=1e-3),
    )
    return msgspec.structs.replace(plain, **given)


def asked(number: int, at: float, *parts: tuple[int, int], output: int = 4, **more: Any) -> Asked:
    """Request `number`, its prompt of (stream, tokens)."""
    return Asked(f"r{number}", at, tuple(Part(*part) for part in parts), output, **more)


def mixed(seed: int, count: int, rate: float, shared: int = 5) -> list[Asked]:
    """Prompts that begin with one of `shared` documents, and own text of any length."""
    rng = np.random.default_rng(seed)
    at, made = 0.0, []
    for number in range(count):
        at += float(rng.exponential(1 / rate))
        document = int(rng.integers(shared))
        own = (1000 + number, int(rng.integers(1, 300)))
        output = int(rng.integers(1, 60))
        made.append(asked(number, at, (document, 200 + 100 * document), own, output=output))
    return made
