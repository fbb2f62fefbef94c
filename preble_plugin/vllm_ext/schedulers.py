"""vLLM's schedulers with our queue, by the names that `prepare` gives an engine.

An engine core imports this module where its configuration names a class of it; in no
other process is vLLM's scheduler loaded for it.
"""

from preble_plugin.vllm_ext import hooks
from preble_plugin.vllm_ext.local_queue import waiting_queue

PrebleScheduler, PrebleAsyncScheduler = hooks.queueing_schedulers(waiting_queue)
