"""`Supervisor` in a process of its own: `python -m tests.run.supervised JSON`."""

from __future__ import annotations

import asyncio
import json
import sys

from preble_plugin.run.supervisor import Patience, Supervisor, Task


async def _run() -> int:
    told = json.loads(sys.argv[1])
    tasks = [
        Task(name, tuple(command), {}, "127.0.0.1", port)
        for name, command, port in told["children"]
    ]
    patience = Patience(**told["patience"])
    return await Supervisor(tasks[:-1], tasks[-1], patience).run()


if __name__ == "__main__":
    sys.exit(asyncio.run(_run()))
