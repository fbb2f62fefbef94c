"""The `preble:` metrics of a server, read back from its page.

Names and labels are those of `service/metrics`.
"""

from __future__ import annotations

from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from preble_plugin.core.status import Trust
from preble_plugin.doctor.placement import Placed, Replica

_OURS: Final = "preble:"
_UNREPORTED: Final = 16
"""Requests of a replica that may be predicted on the page and not reported there yet: they
count when they are placed, and again with their first token."""


def placed(page: str) -> Placed | None:
    """What `page` says of placement, or None where it has no word of it. O(page)."""
    lines = [line for line in page.splitlines() if line.startswith(_OURS)]
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                name = sample.name.removeprefix(_OURS)
                samples.setdefault(name, []).append((dict(sample.labels), sample.value))
    except ValueError:
        return None
    if not samples:
        return None

    def by(label: str, name: str) -> dict[str, float]:
        sums: dict[str, float] = {}
        for labels, value in samples.get(name, ()):
            key = labels.get(label, "")
            sums[key] = sums.get(key, 0.0) + value
        return sums

    predicted = by("replica", "predicted_cached_tokens_total")
    found = by("replica", "actual_cached_tokens_total")
    lag = by("replica", "event_lag_seconds")
    placements = by("replica", "placements_total")
    prompts = by("replica", "prompt_tokens_total")
    trusts = {
        labels.get("replica", ""): Trust(labels["state"])
        for labels, value in samples.get("stream_trust", ())
        if value and labels.get("state") in set(Trust)
    }
    names = sorted({*predicted, *found, *lag, *trusts})
    return Placed(
        replicas=tuple(
            Replica(
                name,
                trusts.get(name),
                int(predicted.get(name, 0)),
                int(found.get(name, 0)),
                int(_UNREPORTED * prompts.get(name, 0) / max(placements.get(name, 0), 1)),
                lag_seconds=lag.get(name, 0.0),
            )
            for name in names
        ),
        placements=int(sum(placements.values())),
        fallbacks={cause: int(n) for cause, n in by("cause", "fallbacks_total").items() if n},
        shadow=any(value for _, value in samples.get("shadow", ())),
    )
