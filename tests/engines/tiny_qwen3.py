"""The tiny model once more, as a Qwen3.

SGLang's DP attention asks for a model that knows it, which Llama does not. A
Qwen3 layer is a Llama layer with a norm on each query and key head; tokenizer
and sizes stay those of `tiny_model`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preble_plugin.bench.tiny_model import (
    HEAD_DIM,
    LAYERS,
    llama_config,
    llama_weights,
    write_model,
)


def make_tiny_qwen3(directory: Path, seed: int = 0) -> Path:
    """Make the model in `directory`, unless it is there, and return `directory`.

    As `make_tiny_model`: the same seed gives the same files; about 3 seconds.
    """
    return write_model(directory, seed, _config(), _weights)


def _config() -> dict[str, Any]:
    return {
        **llama_config(),
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "use_sliding_window": False,
    }


def _weights(seed: int) -> dict[str, NDArray[np.float32]]:
    norms = {
        f"model.layers.{layer}.self_attn.{head}_norm.weight": np.ones(HEAD_DIM, dtype=np.float32)
        for layer in range(LAYERS)
        for head in ("q", "k")
    }
    return llama_weights(seed) | norms
