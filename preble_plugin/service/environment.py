"""Environment variables through which the processes of one server meet.

The launching parent sets them, its children read them; arguments would show in
the process list.
"""

from __future__ import annotations

from typing import Final

SCHEDULER_ADDRESS: Final = "PREBLE_SCHEDULER_ADDRESS"
"""ZMQ address of the scheduler process; set where front ends share one."""

RUN_DIR: Final = "PREBLE_RUN_DIR"
"""Directory for sockets and snapshots, in place of the user's runtime directory."""

SERVER_DIR: Final = "PREBLE_SERVER_DIR"
"""The scheduler process's own directory under the run directory."""

SERVER_SETTINGS: Final = "PREBLE_SERVER_SETTINGS"
"""The scheduler process's settings as JSON, already merged and checked."""

SEED: Final = "PREBLE_SEED"
"""Seed of the block keys in hexadecimal: kept by the parent, so that keys and
snapshots outlive a restart of the scheduler process. A secret."""
