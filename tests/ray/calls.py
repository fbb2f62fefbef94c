"""Builders of calls and replicas, out of Ray Serve's own types."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from ray.serve._private.common import DeploymentID, ReplicaID, RequestMetadata
from ray.serve.request_router import PendingRequest

ENGINE = DeploymentID(name="Engine", app_name="llm")


def text(subject: str, blocks: int = 20) -> str:
    """A prompt of so many blocks of 64 bytes, its start another for each subject."""
    return (subject * 64)[:64] * blocks


def call(prompt: str, request_id: str = "r", *, model: str = "", arg: Any = None) -> PendingRequest:
    """A call of Ray Serve LLM's `completions`, as Ray's router sees it; `arg` instead of the
    request object."""
    body = arg if arg is not None else SimpleNamespace(prompt=prompt, max_tokens=16)
    metadata = RequestMetadata(
        request_id=f"client-{request_id}",
        internal_request_id=request_id,
        call_method="completions",
        multiplexed_model_id=model,
    )
    return PendingRequest(args=[body], kwargs={}, metadata=metadata)


class Replica:
    """What a router is told of a running replica. It stands for Ray's `RunningReplica`."""

    def __init__(self, name: str, *, most: int = 100, models: tuple[str, ...] = ()) -> None:
        self.replica_id = ReplicaID(name, ENGINE)
        self.max_ongoing_requests = most
        self.multiplexed_model_ids = set(models)
        self.node_id = "node"
        self.availability_zone = None
        self.ongoing = 0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return self.ongoing


async def sent(pending: PendingRequest, replica: str) -> None:
    """Ray has sent the call there."""
    pending.future.set_result(Replica(replica))
    await turns()


async def turns() -> None:
    """Let the loop call back what is due."""
    for _ in range(3):
        await asyncio.sleep(0)
