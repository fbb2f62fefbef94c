"""What a router in front of a real engine has to get right, whichever it is."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from preble_plugin.bench.server import Server
from preble_plugin.core import Receipt, SchedulerStatus
from preble_plugin.serve.app import App
from tests.serve.calls import client, pool
from tests.serve.conftest import MakeRouter

TEXT: Final = "Once upon a time there was a table of contents, and it had 1,234 chapters. "
TOOLS: Final[list[Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather somewhere",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


def talk(*said: str) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]


CHATS: Final[dict[str, dict[str, Any]]] = {
    "conversation": {"messages": talk("Chat. " + TEXT * 20, "Fine.", "Go on.")},
    "parts": {
        "messages": [
            {"role": "system", "content": "Parts. " + TEXT * 4},
            {"role": "user", "content": [{"type": "text", "text": TEXT * 20}]},
        ]
    },
    "tools": {"messages": talk("Tools. " + TEXT * 20), "tools": TOOLS},
}


def status(app: App) -> SchedulerStatus:
    found = pool(app).frontend.status()
    assert found is not None
    return found


async def in_front(router: MakeRouter, server: Server) -> App:
    """A router of this backend alone, once all its streams of events are believed."""
    made = await router(up=1, backends=[server.base_url], health_timeout_seconds=30)
    while not all(one.trust == "exact" for one in status(made).replicas):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return made


async def settled(app: App) -> None:
    """Until what was asked is stored, and told by events: nothing is expected any more."""
    while any(one.expected_blocks for one in status(app).replicas):
        await asyncio.sleep(0.05)
        pool(app).frontend.observe("nobody", [], asyncio.get_running_loop().time())


async def twice(app: App, path: str, name: str, body: dict[str, Any]) -> tuple[Receipt, Receipt]:
    """Ask the same twice, once its blocks are told of: the receipts."""
    receipts = []
    for time in ("first", "again"):
        request_id = f"{name}-{time}"
        async with client(app) as session:
            headers = {"X-Request-Id": request_id}
            async with session.post(path, json=body, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()
        await settled(app)
        receipts += pool(app).frontend.host.explain(request_id)
    first, again = receipts
    return first, again


def assert_exact(first: Receipt, again: Receipt, block_size: int) -> None:
    """The second goes where the first went, and its hit is as predicted."""
    assert again.replica == first.replica
    assert again.prompt_tokens == first.prompt_tokens
    assert again.predicted_cached_tokens == again.actual_cached_tokens
    hit = (again.prompt_tokens - 1) // block_size * block_size
    assert again.predicted_cached_tokens == hit >= 10 * block_size
