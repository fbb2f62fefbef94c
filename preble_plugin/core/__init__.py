"""Prefix tree, residency and E2: pure, synchronous, engine-free."""

from preble_plugin.core.block_keys import BlockHasher, TokenIdError
from preble_plugin.core.events import Attention, CacheEvent, Clear, Remove, Store, namespace
from preble_plugin.core.receipts import Receipt
from preble_plugin.core.report import LoadReport
from preble_plugin.core.request import (
    Finished,
    FirstToken,
    Outcome,
    Placement,
    ReplicaId,
    Request,
)
from preble_plugin.core.scheduler import NoReplicaError, Scheduler
from preble_plugin.core.status import ReplicaStatus, SchedulerStatus, Trust

__all__ = [
    "Attention",
    "BlockHasher",
    "CacheEvent",
    "Clear",
    "Finished",
    "FirstToken",
    "LoadReport",
    "NoReplicaError",
    "Outcome",
    "Placement",
    "Receipt",
    "Remove",
    "ReplicaId",
    "ReplicaStatus",
    "Request",
    "Scheduler",
    "SchedulerStatus",
    "Store",
    "TokenIdError",
    "Trust",
    "namespace",
]
