"""A program that uses SGLang from Python with placement, and prints what it saw.

Run as `python -m tests.sglang.engine_program MODEL`; prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from tests.engines.client import tokens
from tests.engines.preble import Scheduler, until

SETTINGS = {"receipts": 20}


def main() -> None:
    import sglang

    engine = sglang.Engine(
        model_path=sys.argv[1],
        dp_size=2,
        dp_scheduler="preble",
        dp_scheduler_config=SETTINGS,
        device="cpu",
        attention_backend="torch_native",
        disable_overlap_schedule=True,
        mem_fraction_static=0.1,
        max_total_tokens=4096,
        page_size=16,
        sleep_on_idle=True,
    )
    try:
        print("\n" + json.dumps(use(engine)), flush=True)
    finally:
        engine.shutdown()


def use(engine: Any) -> dict[str, Any]:
    scheduler = Scheduler()
    document = tokens(950, 320)
    params = {"max_new_tokens": 3, "temperature": 0.0, "ignore_eos": True}

    def ask(name: str, prompt: list[int], **more: Any) -> int:
        answer = engine.generate(input_ids=prompt, sampling_params=params, rid=name, **more)
        scheduler.settled()
        cached: int = answer["meta_info"]["cached_tokens"]
        return cached

    seen: dict[str, Any] = {}
    seen["cached"] = [ask(f"shared-{i}", document) for i in range(3)]
    found = [scheduler.receipt(f"shared-{i}") for i in range(3)]
    seen["predicted"] = [one.predicted_cached_tokens for one in found]
    seen["replicas"] = [one.replica for one in found]
    ask("fixed", tokens(951, 50), routed_dp_rank=1)
    fixed = scheduler.receipt("fixed")
    seen["fixed"] = [fixed.replica, fixed.branch]

    async def abort_one() -> str:
        long = {**params, "max_new_tokens": 3000}
        running = asyncio.ensure_future(
            engine.async_generate(input_ids=document, sampling_params=long, rid="aborted")
        )
        await asyncio.to_thread(until, scheduler.status, lambda status: status.in_flight == 1)
        engine.tokenizer_manager.abort_request(rid="aborted")
        reason: str = (await running)["meta_info"]["finish_reason"]["type"]
        return reason

    seen["aborted"] = engine.loop.run_until_complete(abort_one())
    scheduler.settled()  # its rank lets go of it in its next step
    seen["flushed"] = until(engine.flush_cache, lambda answer: answer.success).success
    for number in range(SETTINGS["receipts"]):
        ask(f"later-{number}", tokens(960 + number, 20))
    seen["kept"] = len(scheduler.receipts("shared-0"))
    status = scheduler.settled()
    seen["in_flight"] = status.in_flight
    seen["trust"] = [one.trust for one in status.replicas]
    return seen


if __name__ == "__main__":
    main()
