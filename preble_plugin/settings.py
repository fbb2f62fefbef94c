"""Every setting, in one struct.

They come as JSON or `@file` from `--dp-scheduler-config`, as the same keys in
an engine's YAML, from the environment, or from Python.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class SettingsError(ValueError):
    """Settings that cannot be used; the message names the key and the remedy."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Settings of the placement. Defaults need no tuning."""

    policy: str = "e2"
    """Placement policy, by its name in the entry-point group `preble.policies`."""
    window_seconds: Annotated[float, Meta(gt=0)] = 180.0
    """The window H over which use of prefixes and work is counted, in seconds."""
    receipts: Annotated[int, Meta(ge=0)] = 10_000
    """How many decisions `preble explain` can look back."""
    max_tree_blocks: Annotated[int, Meta(ge=1)] = 8_000_000
    """Bound on the blocks the prefix tree keeps, over all replicas."""
    snapshot_blocks: Annotated[int, Meta(ge=0)] = 1_000_000
    """Bound on the blocks per replica that are kept outside the scheduler
    process, to refill it after a restart; 0 keeps none."""
    placement_deadline_seconds: Annotated[float, Meta(gt=0)] = 0.05
    """How long a front end waits for the scheduler process before the engine's
    own dispatch takes the request."""
    admin_socket: str | None = None
    """Path of the local socket that `preble explain` and `preble status` talk
    to; by default one in the run directory."""
    allow_untested: bool = False
    """Start on an engine newer than the tested versions, with a warning."""
