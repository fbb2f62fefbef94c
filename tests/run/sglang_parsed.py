"""SGLang's own parser, in a process that has the stand-ins on its path.

`python -m tests.run.sglang_parsed` reads a list of argument lists as JSON and writes, for
each, the fields that they make of a `ServerArgs`, or the word of refusal; and the names that
its parser knows.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from typing import Any

_FIELDS = ("model_path", "host", "port", "tp_size", "dp_size", "attn_dp_size", "kv_events_config")


def _main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what SGLang prints is no answer
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import ServerArgs, prepare_server_args

    load_plugins()

    def parsed(arguments: list[str]) -> dict[str, Any]:
        os.environ.pop("PREBLE_DP_SCHEDULER", None)
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                made = prepare_server_args(arguments)
        except SystemExit:
            return {"error": said.getvalue()}
        found = {name: getattr(made, name) for name in _FIELDS}
        return {**found, "dp_scheduler": os.environ.get("PREBLE_DP_SCHEDULER")}

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    told = {
        "parsed": [parsed(arguments) for arguments in json.load(sys.stdin)],
        "names": sorted(parser._option_string_actions),
    }
    json.dump(told, answers)
    answers.close()


if __name__ == "__main__":
    _main()
