"""Whether a rank takes up cached work first: one decision for all engines."""

from __future__ import annotations

from preble_plugin.settings import Settings


def local_queue_wanted(settings: Settings, *, prefix_caching: bool) -> bool:
    """Whether the ranks order what waits by what is cached (`core/local_queue`).

    Asked only where preble is chosen. Under `auto` it is on where the ranks cache
    prefixes, for without a cache all requests are equal, and off in shadow mode,
    which changes nothing that the engine does.
    """
    if settings.local_queue == "auto":
        return prefix_caching and not settings.shadow
    return settings.local_queue == "on"
