"""vLLM from Python, its requests placed by preble.

    python examples/python/asyncllm.py MODEL
    python examples/python/asyncllm.py MODEL '{"data_parallel_size": 8}'

The second argument is JSON: further arguments of vLLM's `AsyncEngineArgs`. Two ranks, unless
it says otherwise. Three questions are asked about one document; the second and the third go
where the first was computed, and find it in the cache. From another shell, meanwhile:

    preble status
    preble explain question-3
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from vllm import AsyncEngineArgs, SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

DOCUMENT = "The lighthouse keeper wrote down every ship that passed. " * 40
QUESTIONS = ("Who wrote?", "What did he write down?", "Where did he live?")


async def ask(engine: AsyncLLM, name: str, prompt: str) -> None:
    """Print what the engine found cached of the prompt."""
    params = SamplingParams(max_tokens=16, output_kind=RequestOutputKind.FINAL_ONLY)
    async for output in engine.generate(prompt, params, name):
        prompt_tokens = len(output.prompt_token_ids or ())
        print(f"{name}: {output.num_cached_tokens} of {prompt_tokens} prompt tokens cached")


async def main(model: str, more: dict[str, Any]) -> None:
    """Start the engine, ask, end it."""
    # The choice is here; settings beside it, such as {"dp_scheduler": ..., "receipts": 100}.
    choice = {"dp_scheduler": "preble"}
    arguments = {"data_parallel_size": 2, "additional_config": choice, **more}
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model=model, **arguments))
    try:
        for number, question in enumerate(QUESTIONS, start=1):
            await ask(engine, f"question-{number}", f"{DOCUMENT}\n\n{question}")
    finally:
        engine.shutdown()


# vLLM's processes import this module again: nothing may start outside of this.
if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) == 3 else {}))
