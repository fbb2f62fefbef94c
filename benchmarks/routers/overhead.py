"""What each router adds to a request, at the trivial server of `benchmarks.serving`.

1. Prompts are text of about 1,024 tokens. Ours tokenizes it, and, without a tokenizer,
   compares it as text, which is what sglang-router does.
2. Each router has one core to itself, the server and the clients another. A round asks all
   of them and the server itself, one after the other; a router's overhead is its median
   less the server's, in the same round.
"""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.routers.started import DIRECT, PREBLE, SGLANG, Router, router
from benchmarks.serving import AT_ONCE, client, cpu_seconds, own

TOKENIZING: Final = "preble, tokenizing"
ALONE: Final = 600
"""Requests of a round, one at a time."""
MANY: Final = 3000
"""And with many at once."""

Round = Mapping[str, float]


def measure(rounds: int, cores: tuple[int, int], out: Path, program: Path, model: Path) -> str:
    """A table of all rounds."""
    with ExitStack() as stack:
        arguments = ("-m", "benchmarks.serving", "server", "0", "")
        server = own(cores[1], *arguments, stdout=subprocess.PIPE)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        assert server.stdout is not None
        direct = int(server.stdout.readline())

        def started(name: str, side: str, tokenizer: Path | None = None) -> Router:
            log, urls = out / f"overhead-{name}.log", [f"http://127.0.0.1:{direct}"]
            return stack.enter_context(router(side, urls, log, program, cores[0], tokenizer))

        routers = {
            SGLANG: started(SGLANG, SGLANG),
            PREBLE: started(PREBLE, PREBLE),
            TOKENIZING: started(TOKENIZING, PREBLE, model),
        }
        found: dict[str, list[Round]] = {name: [] for name in (DIRECT, *routers)}
        for one in routers.values():
            client(cores[1], _port(one), "text", 999, 300, 4)  # the first are not like the rest
        for number in range(rounds):
            found[DIRECT].append(client(cores[1], direct, "text", number, ALONE, 1))
            turn = number % len(routers)
            names = list(routers)
            for name in [*names[turn:], *names[:turn]]:
                found[name].append(_round(routers[name], number, cores[1]))
    return _table(found)


def _round(one: Router, number: int, core: int) -> Round:
    alone = client(core, _port(one), "text", number, ALONE, 1)
    began = cpu_seconds(one.pid)
    busy = client(core, _port(one), "text", 100 + number, MANY, AT_ONCE)
    used = (cpu_seconds(one.pid) - began) / MANY * 1e6
    return {"p50_ms": alone["p50_ms"], "per_s": busy["per_s"], "cpu_us": used}


def _port(one: Router) -> int:
    return int(one.base_url.rpartition(":")[2])


def _table(found: Mapping[str, Sequence[Round]]) -> str:
    direct = [one["p50_ms"] for one in found[DIRECT]]

    def added(name: str) -> list[float]:
        return [one["p50_ms"] - plain for one, plain in zip(found[name], direct, strict=True)]

    theirs = added(SGLANG)
    lines = [
        f"direct: p50 {statistics.median(direct):.3f} ms",
        "",
        "| text prompts | added, p50 (ms) | rounds | over sglang-router | requests/s | CPU (us) |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name in found:
        if name == DIRECT:
            continue
        ours = added(name)
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        per_s = statistics.median(one["per_s"] for one in found[name])
        used = statistics.median(one["cpu_us"] for one in found[name])
        lines.append(
            f"| {name} | {statistics.median(ours):.3f} | {min(ours):.3f} to {max(ours):.3f} "
            f"| {ratio:.2f} | {per_s:.0f} | {used:.0f} |"
        )
    return "\n".join([*lines, ""])
