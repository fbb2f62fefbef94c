"""A program that uses vLLM from Python with placement, and prints what it saw.

Run as `python -m tests.vllm.async_engine MODEL`; prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from tests.engines.client import tokens
from tests.engines.preble import Scheduler


def build(model: str) -> Any:
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=model,
            data_parallel_size=2,
            block_size=32,
            dtype="float32",
            enforce_eager=True,
            max_model_len=2048,
            enable_prompt_embeds=True,
            additional_config={"dp_scheduler": "preble", "receipts": 100},
        )
    )


async def use(engine: Any) -> dict[str, Any]:
    import torch
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    def params(**more: Any) -> Any:
        values = {"max_tokens": 3, "temperature": 0.0, "ignore_eos": True}
        return SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **(values | more))

    async def ask(name: str, prompt: Any, sampling: Any = None, **more: Any) -> Any:
        outputs = engine.generate(prompt, sampling or params(), name, **more)
        return [output async for output in outputs][-1]

    seen: dict[str, Any] = {}
    scheduler = Scheduler()
    document = {"prompt_token_ids": tokens(700, 320)}
    first = [await ask(f"shared-{i}", document) for i in range(3)]
    seen["cached"] = [one.num_cached_tokens for one in first]
    receipts = [await asyncio.to_thread(scheduler.receipt, f"shared-{i}") for i in range(3)]
    seen["predicted"] = [one.predicted_cached_tokens for one in receipts]
    seen["replicas"] = [one.replica for one in receipts]

    await ask("fixed", {"prompt_token_ids": tokens(701, 50)}, data_parallel_rank=1)
    fixed = await asyncio.to_thread(scheduler.receipt, "fixed")
    seen["fixed"] = [fixed.replica, fixed.branch]

    several = await ask("several", document, params(n=4, temperature=1.0))
    seen["samples"] = len(several.outputs)

    embeddings = await ask("embeddings", {"prompt_embeds": torch.zeros(70, 256)})
    seen["embeddings"] = len(embeddings.outputs[0].token_ids)

    running = asyncio.create_task(ask("aborted", document, params(max_tokens=1500)))
    await asyncio.to_thread(wait_until_running, scheduler)
    await engine.abort("aborted")
    seen["aborted"] = (await running).outputs[0].finish_reason

    cancelled = asyncio.create_task(ask("cancelled", document, params(max_tokens=1500)))
    await asyncio.to_thread(wait_until_running, scheduler)
    cancelled.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await cancelled

    seen["streaming"] = await stream_input(engine)
    seen["reset"] = await engine.reset_prefix_cache()
    status = await asyncio.to_thread(scheduler.settled)
    seen["in_flight"] = status.in_flight
    seen["trust"] = [one.trust for one in status.replicas]
    return seen


def wait_until_running(scheduler: Scheduler) -> None:
    from tests.engines.preble import until

    until(scheduler.status, lambda status: status.in_flight == 1)


async def stream_input(engine: Any) -> int:
    """Tokens said to an input that comes in three parts."""
    from vllm import SamplingParams
    from vllm.engine.protocol import StreamingInput
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(
        max_tokens=4, temperature=0.0, ignore_eos=True, output_kind=RequestOutputKind.DELTA
    )

    async def parts() -> AsyncIterator[Any]:
        for number in range(3):
            yield StreamingInput(prompt={"prompt_token_ids": tokens(710 + number, 40)})

    said = 0
    async for output in engine.generate(parts(), params, "streaming"):
        said += sum(len(one.token_ids) for one in output.outputs)
    return said


def main() -> None:
    engine = build(sys.argv[1])
    try:
        print("\n" + json.dumps(asyncio.run(use(engine))), flush=True)
    finally:
        engine.shutdown()


if __name__ == "__main__":
    main()
