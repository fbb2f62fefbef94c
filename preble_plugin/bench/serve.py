"""`make serve`: `vllm serve --config FILE` with the tiny model, in the foreground.

It becomes the server (exec), so that Ctrl-C and signals are vLLM's own.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from preble_plugin.bench.tiny_model import make_tiny_model
from preble_plugin.bench.vllm_server import CPU_ENVIRONMENT


def main() -> None:
    """Serve as the file named by the first argument says. Does not return."""
    make_tiny_model(Path(".cache/tiny-model"))
    command = [str(Path(sys.executable).parent / "vllm"), "serve", "--config", sys.argv[1]]
    print(*(f"{key}={value}" for key, value in CPU_ENVIRONMENT.items()), shlex.join(command))
    sys.stdout.flush()
    os.execve(command[0], command, {**os.environ, **CPU_ENVIRONMENT})


if __name__ == "__main__":
    main()
