"""`make serve`, `make serve-sglang`: a server as FILE says, with the tiny model, in the foreground.

It becomes the server (exec), so that Ctrl-C and signals are the engine's own.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from preble_plugin.bench import sglang_server, vllm_server
from preble_plugin.bench.tiny_model import make_tiny_model


def main() -> None:
    """Serve as the arguments say. Does not return."""
    parser = argparse.ArgumentParser(prog="python -m preble_plugin.bench.serve")
    parser.add_argument("engine", choices=("vllm", "sglang"))
    parser.add_argument("config", help="what the engine takes as --config")
    parser.add_argument("--standins", type=Path, help="as in the demo")
    options = parser.parse_args()
    make_tiny_model(Path(".cache/tiny-model"))
    if options.engine == "vllm":
        needed = vllm_server.CPU_ENVIRONMENT
        command = [str(Path(sys.executable).parent / "vllm"), "serve"]
    else:
        needed = sglang_server.cpu_environment(options.standins)
        command = [sys.executable, "-m", "sglang.launch_server"]
    command += ["--config", options.config]
    print(*(f"{key}={shlex.quote(value)}" for key, value in needed.items()), shlex.join(command))
    sys.stdout.flush()
    os.execve(command[0], command, {**os.environ, **needed})


if __name__ == "__main__":
    main()
