"""A LoRA adapter for the tiny model, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

from preble_plugin.bench import tiny_model

RANK = 8


def make_adapter(directory: Path, seed: int) -> Path:
    """Write an adapter that changes what the model says; its directory."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    weights = {}
    widths = {
        "q_proj": tiny_model.HEADS * tiny_model.HEAD_DIM,
        "v_proj": tiny_model.KV_HEADS * tiny_model.HEAD_DIM,
    }
    for layer in range(tiny_model.LAYERS):
        for projection, width in widths.items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{projection}"
            down = torch.randn(RANK, tiny_model.HIDDEN, generator=generator)
            up = torch.randn(width, RANK, generator=generator)
            weights[f"{name}.lora_A.weight"] = down
            weights[f"{name}.lora_B.weight"] = up
    directory.mkdir(parents=True, exist_ok=True)
    save_file(weights, str(directory / "adapter_model.safetensors"))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": sorted(widths),
        "base_model_name_or_path": "tiny",
        "bias": "none",
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory
