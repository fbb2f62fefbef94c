"""What a server was asked comes back from its recording as a trace."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from service_builders import BLOCK_SIZE, PATIENT, MakeTwin, hasher_of, replica, until

from preble_plugin.core import Finished, FirstToken, Placement, Request
from preble_plugin.core.status import RecordingStatus
from preble_plugin.service.interface import Frontend
from preble_plugin.sim.asked import Asked, Part, stream_tokens
from preble_plugin.sim.sharing import table_row
from preble_plugin.sim.trace import read_trace
from preble_plugin.sim.workloads import make


def whole_blocks(asked: Sequence[Asked]) -> list[Asked]:
    """The same with each part filled up to whole blocks: what keys can tell."""

    def filled(part: Part) -> Part:
        return Part(part.stream, -(-part.tokens // BLOCK_SIZE) * BLOCK_SIZE)

    return [msgspec.structs.replace(one, prompt=tuple(map(filled, one.prompt))) for one in asked]


async def play(frontend: Frontend, asked: Sequence[Asked]) -> None:
    """Place each request and let it end; every third goes by the engine's own dispatch."""
    hasher = hasher_of(frontend)
    for number, one in enumerate(asked):
        tokens = np.concatenate([stream_tokens(*part) for part in one.prompt])
        made = Request(one.request_id, hasher.prompt_keys(tokens.tolist()), len(tokens))
        rank = number % 2
        if number % 3:
            answer = await frontend.place(made)
            assert isinstance(answer, Placement)
            rank = int(answer.replica)
        else:
            frontend.dispatched(made, rank)
        end = [FirstToken(one.request_id, 0), Finished(one.request_id, one.output_tokens)]
        frontend.observe(rank, end, time.monotonic())


async def test_a_stream_that_was_served_comes_back_with_the_same_sharing(
    twin_of: MakeTwin, tmp_path: Path
) -> None:
    path = tmp_path / "recording.jsonl"
    asked = whole_blocks(make("tool", requests=120, rate=20.0, seed=1))
    settings = msgspec.structs.replace(PATIENT, record=str(path))
    twin = await twin_of(settings)
    twin.set_replicas([replica(0), replica(1)])
    await until(lambda: twin.hasher is not None)

    await play(twin, asked)
    await until(lambda: path.exists() and path.read_bytes().count(b"\n") == len(asked))

    back = read_trace(path)
    assert table_row(back) == table_row(asked)
    assert [one.request_id.partition("@")[0] for one in back] == [one.request_id for one in asked]

    def counted() -> bool:
        status = twin.status()
        recording = RecordingStatus(str(path), written=len(asked))
        return status is not None and status.recording == recording

    await until(counted)
