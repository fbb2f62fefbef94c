"""What SGLang calls in its processes: entry point `sglang.srt.plugins`.

1. SGLang loads plugins in the launching process, before it parses arguments; in
   scheduler processes; and from 0.5.22 in the data-parallel controller and the
   detokenizer. What a process is shows in the modules it has loaded.
2. The launching process gets the flags and the checks. A controller gets our
   dispatch, and a scheduler tells it what becomes of requests: both only where
   the launching process left word that requests are placed. A scheduler gets our
   local queue where it left word of that.
3. Nothing heavy is imported here, and nothing raised: a fault of ours is logged
   and SGLang goes on as it is.
"""

from __future__ import annotations

import logging
import os


def register() -> None:
    """Take hold of SGLang in this process; idempotent."""
    try:
        from preble_plugin.sglang_ext import hooks, word

        if hooks.loaded(hooks.ENGINE) or not hooks.loaded(hooks.SCHEDULER):
            from preble_plugin.sglang_ext import launch

            launch.watch()
        if hooks.loaded(hooks.SCHEDULER) and word.queue_left(os.environ):
            from preble_plugin.sglang_ext.local_queue import WaitingOrders

            orders = WaitingOrders()
            hooks.wrap_prefill_pass(orders.before_walk, orders.after_walk)
        if word.left(os.environ) is None:
            return
        if hooks.loaded(hooks.CONTROLLER):
            from preble_plugin.sglang_ext import controller

            hooks.wrap_balance_method()
            hooks.wrap_controller(controller.take_over, controller.run)
        if hooks.loaded(hooks.SCHEDULER):
            from preble_plugin.sglang_ext.outcomes import teller

            if (tells := teller(os.environ)) is not None:
                hooks.wrap_outputs(tells.ended, tells.started)
    except Exception:
        logging.getLogger("sglang.preble").exception(
            "preble could not take hold of SGLang, which runs on without --dp-scheduler"
        )
