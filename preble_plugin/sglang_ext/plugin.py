"""What SGLang calls in its processes: entry point `sglang.srt.plugins`.

1. SGLang loads plugins in the launching process, before it parses arguments, in the
   data-parallel controller, and in scheduler processes. What a process is shows in the
   modules it has loaded.
2. The launching process gets the flags and the checks. A controller gets our loop and
   dispatch, and a scheduler tells it what becomes of requests, where the launching
   process says that requests are placed. A scheduler gets our local queue where it says
   so. Each verifies its part of the contract before.
3. Nothing heavy is imported here. SGLang only logs what a plugin raises. So what fails
   ends a process where `preble` was chosen; else it is logged and SGLang goes on.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preble_plugin.sglang_ext.launch_env import Launch


def register() -> None:
    """Take hold of SGLang in this process; idempotent."""
    from preble_plugin.sglang_ext import launch_env

    launch = launch_env.read(os.environ)
    try:
        _take_hold(launch)
    except Exception as fault:
        chosen = os.environ.get("PREBLE_DP_SCHEDULER") == "preble"
        if not launch.auto if launch is not None else chosen:
            raise SystemExit(f"preble could not take hold of SGLang: {fault}") from fault
        logging.getLogger("sglang.preble").exception(
            "preble could not take hold of SGLang, which runs on without --dp-scheduler"
        )


def _take_hold(launch: Launch | None) -> None:
    from preble_plugin.sglang_ext import hooks

    if hooks.loaded(hooks.ENGINE) or not hooks.loaded(hooks.SCHEDULER):
        from preble_plugin.sglang_ext import launch as launching

        launching.watch()
    if launch is None:
        return
    from preble_plugin.adapter.contract import verify
    from preble_plugin.sglang_ext.contract import CONTROLLER, SCHEDULER
    from preble_plugin.sglang_ext.known import SGLANG

    if hooks.loaded(hooks.CONTROLLER) and launch.outcomes is not None:
        from preble_plugin.sglang_ext import controller

        verify(SGLANG, hooks.version(), CONTROLLER)
        hooks.wrap_controller(controller.built, controller.run)
    if hooks.loaded(hooks.SCHEDULER):
        verify(SGLANG, hooks.version(), SCHEDULER)
        if launch.queue:
            from preble_plugin.sglang_ext.local_queue import WaitingOrders

            orders = WaitingOrders()
            hooks.wrap_prefill_pass(orders.before_walk, orders.after_walk)
        if launch.outcomes is not None:
            from preble_plugin.sglang_ext.outcomes import OutcomeTeller

            teller = OutcomeTeller(launch.outcomes)
            hooks.wrap_outputs(teller.ended, teller.started)
            hooks.wrap_prefill_registration()
            hooks.announce_storage()
