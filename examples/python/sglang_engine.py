"""SGLang from Python, its requests placed by preble.

    python examples/python/sglang_engine.py MODEL
    python examples/python/sglang_engine.py MODEL '{"dp_size": 8}'

The second argument is JSON: further arguments of `sgl.Engine`. Two ranks, unless it says
otherwise. Three questions are asked about one document; the second and the third go where
the first was computed, and find it in the cache. From another shell, meanwhile:

    preble status
    preble explain question-3
"""

from __future__ import annotations

import json
import sys
from typing import Any

import sglang as sgl

DOCUMENT = "The lighthouse keeper wrote down every ship that passed. " * 40
QUESTIONS = ("Who wrote?", "What did he write down?", "Where did he live?")


def main(model: str, more: dict[str, Any]) -> None:
    """Start the engine, ask, end it."""
    # The choice is here; settings beside it, such as dp_scheduler_config={"receipts": 100}.
    arguments = {"dp_size": 2, "dp_scheduler": "preble", **more}
    engine = sgl.Engine(model_path=model, **arguments)
    try:
        for number, question in enumerate(QUESTIONS, start=1):
            name = f"question-{number}"
            prompt = f"{DOCUMENT}\n\n{question}"
            answer = engine.generate(prompt, {"max_new_tokens": 16}, rid=name)
            found = answer["meta_info"]
            cached, prompt_tokens = found["cached_tokens"], found["prompt_tokens"]
            print(f"{name}: {cached} of {prompt_tokens} prompt tokens cached")
    finally:
        engine.shutdown()


# SGLang's processes import this module again: nothing may start outside of this.
if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) == 3 else {})
