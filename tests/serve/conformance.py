"""A run of schemathesis on the document that a router serves."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from preble_plugin.serve.app import App
from preble_plugin.serve.kinds import METHODS
from tests.engines import ROOT

_REFUSED = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "404"]
"""
"""What a request means beyond its shape is for an engine to judge: a role that a template
does not know, a token that a model has not."""


async def findings(app: App, directory: Path, examples: int, *, judged: bool = False) -> str:
    """What it finds with up to so many made-up requests for each path, besides those of its
    own plan; the empty string where that is nothing. The same requests each time. `judged`
    lets the engine refuse what has the right shape."""
    (directory / "schemathesis.toml").write_text(_REFUSED if judged else "")
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "schemathesis"),
        *("--config-file", str(directory / "schemathesis.toml")),
        *("run", f"http://127.0.0.1:{app.port}/openapi.json"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", str(examples)),
        *("--generation-deterministic", "--continue-on-failure", "--no-color"),
        cwd=directory,
        env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.serve.conformance_hooks", **_PATHS},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode in (0, 1), said  # 1: it ran, and found something
    assert f"Tested: {len(METHODS)}" in said, said
    return said if process.returncode else ""


_PATHS = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
