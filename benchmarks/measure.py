"""Times of many repetitions, and what machine they were taken on."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

Result = TypeVar("Result")
VOCABULARY: Final = 128_000
SEED: Final = b"benchmark seed.."


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What `work` gives, and the seconds it took."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and least, in microseconds."""
    ordered = sorted(seconds)
    return {
        "p50_us": round(statistics.median(ordered) * 1e6, 1),
        "p99_us": round(ordered[int(len(ordered) * 0.99)] * 1e6, 1),
        "least_us": round(ordered[0] * 1e6, 1),
    }


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    from preble_plugin.core import block_keys

    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "python": platform.python_version(),
        "accelerator": block_keys.fastest_keys is not block_keys.numpy_keys,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def resident_bytes() -> int:
    """What the process holds of the machine's memory."""
    with open("/proc/self/statm") as figures:
        return int(figures.read().split()[1]) * 4096
