"""What vLLM calls in each of its processes: entry point `vllm.general_plugins`.

1. vLLM loads plugins before it parses arguments, when it builds engine
   arguments, and in engine cores and workers, where there is nothing to do.
2. Where `vllm.engine.arg_utils` is loaded, the flag is added and
   `create_engine_config` is wrapped; what else is done hangs on the choice
   that the wrap finds.
3. Nothing heavy is imported here. A fault of ours is logged and vLLM goes on as it is,
   unless the environment chooses `preble`: then it is raised.
"""

from __future__ import annotations

import logging
import os
import sys


def register() -> None:
    """Take hold of vLLM in this process; idempotent."""
    if "vllm.engine.arg_utils" not in sys.modules:
        return
    from preble_plugin.adapter.flag import add_arguments
    from preble_plugin.vllm_ext import engine_config, hooks

    try:
        hooks.wrap_cli_args(lambda parser: add_arguments(parser, "vLLM"))
        hooks.wrap_engine_config(engine_config.create, engine_config.bypassed)
    except Exception:
        if os.environ.get("PREBLE_DP_SCHEDULER") == "preble":
            from preble_plugin.adapter.contract import verify
            from preble_plugin.vllm_ext.contract import LAUNCH
            from preble_plugin.vllm_ext.known import VLLM

            verify(VLLM, hooks.version(), LAUNCH)  # names what is not as it was
            raise
        logging.getLogger("vllm.preble").exception(
            "preble could not take hold of vLLM, which runs on without --dp-scheduler"
        )
