"""What a user may set, as `request_router_kwargs` of the deployment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from preble_plugin.settings import Settings, SettingsError, load_settings

_TAKES: Final = (
    *("policy", "window_seconds", "receipts", "max_tree_blocks"),
    *("record", "record_megabytes", "shadow"),
)
"""The settings of the placement that mean something here."""


def read_settings(given: Mapping[str, Any]) -> tuple[Settings, int | None]:
    """The settings of the placement, and the tokens that each replica's cache holds: None
    where that is not said. Raises `SettingsError`."""
    unknown = sorted(set(given) - {*_TAKES, "capacity_tokens"})
    if unknown:
        raise SettingsError(
            f"request_router_kwargs: there is no {', '.join(unknown)} here; there are: "
            f"capacity_tokens, {', '.join(_TAKES)}"
        )
    capacity = given.get("capacity_tokens")
    if capacity is not None and (type(capacity) is not int or capacity < 1):
        raise SettingsError(
            f"request_router_kwargs: 'capacity_tokens' takes a whole number from 1, got "
            f"{capacity!r}: the tokens that one replica's KV cache holds"
        )
    return load_settings({key: given[key] for key in given if key in _TAKES}), capacity
