"""A model small enough to serve on a CPU, made on the spot.

1. A seeded pseudo-language of syllables gives text of any length.
2. A byte-level BPE tokenizer of 4,096 tokens is trained on some of that text.
3. A Llama of 4.5 M parameters, or of another shape, gets seeded random weights, float32: what it
   answers means nothing, but it computes, caches and answers like any model.
4. All files land in one directory, in one step: a run that was cut short leaves
   nothing that could be taken for a model.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

VOCABULARY: Final = 4096
HIDDEN: Final = 256
LAYERS: Final = 4
HEADS: Final = 4
KV_HEADS: Final = 2
HEAD_DIM: Final = 64
INTERMEDIATE: Final = 512
POSITIONS: Final = 8192
END: Final = "<|end|>"


class Shape(NamedTuple):
    """Sizes of a Llama; vocabulary and positions stay what they are."""

    hidden: int = HIDDEN
    layers: int = LAYERS
    heads: int = HEADS
    kv_heads: int = KV_HEADS
    head_dim: int = HEAD_DIM
    intermediate: int = INTERMEDIATE


TINY: Final = Shape()

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_SPECIAL: Final = (END, "<|system|>", "<|user|>", "<|assistant|>")
_SYLLABLES: Final = tuple(
    onset + vowel + coda
    for onset in ("b", "d", "f", "gr", "k", "l", "m", "n", "p", "r", "s", "st", "t", "v")
    for vowel in ("a", "e", "i", "o", "u", "ea")
    for coda in ("", "n", "r", "s")
)


class Language:
    """The pseudo-language: 3,000 words, the frequent ones short, from one seed."""

    def __init__(self, seed: int = 0, words: int = 3000) -> None:
        rng = random.Random(seed)
        found: dict[str, None] = {}
        while len(found) < words:
            syllables = 1 + (len(found) > 150) + (rng.random() < len(found) / words)
            found.setdefault("".join(rng.choices(_SYLLABLES, k=syllables)))
        self.words = tuple(found)
        self._cumulative = list(_running_sum(1 / (rank + 10) for rank in range(words)))

    def sentence(self, rng: random.Random) -> str:
        """One sentence of 6 to 18 words, drawn by Zipf's law."""
        words = rng.choices(self.words, cum_weights=self._cumulative, k=rng.randint(6, 18))
        return " ".join(words).capitalize() + "."

    def text(self, rng: random.Random, words: int) -> str:
        """Sentences of `words` words or a few more. O(words)."""
        sentences: list[str] = []
        count = 0
        while count < words:
            sentences.append(self.sentence(rng))
            count += sentences[-1].count(" ") + 1
        return " ".join(sentences)


def make_tiny_model(directory: Path, seed: int = 0, shape: Shape = TINY) -> Path:
    """Make the model in `directory`, unless it is there, and return `directory`.

    The same seed and shape give the same files. Needs `tokenizers` and `safetensors`
    (both come with either engine). Takes about 3 seconds and 18 MB; other shapes in
    proportion.
    """
    return write_model(directory, seed, llama_config(shape), partial(llama_weights, shape=shape))


def write_model(
    directory: Path,
    seed: int,
    config: Mapping[str, Any],
    weights: Callable[[int], dict[str, NDArray[np.float32]]],
) -> Path:
    """Write a model with this tokenizer, unless it is there, and return `directory`.

    `config` is its config.json; `weights(seed)` gives its tensors by name.
    """
    if directory.exists():
        return directory
    from safetensors.numpy import save_file

    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{directory.name}.", dir=directory.parent))
    try:
        _train_tokenizer(seed).save(str(draft / "tokenizer.json"))
        _write_json(draft / "tokenizer_config.json", _tokenizer_config())
        _write_json(draft / "config.json", config)
        _write_json(draft / "generation_config.json", {"eos_token_id": 0, "do_sample": False})
        save_file(weights(seed), draft / "model.safetensors", metadata={"format": "pt"})
        draft.chmod(0o755)
        try:
            os.rename(draft, directory)
        except OSError:
            if not directory.exists():  # another process may have been first
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return directory


def _train_tokenizer(seed: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    language, rng = Language(seed), random.Random(seed)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((language.text(rng, 500) for _ in range(200)), trainer)
    return tokenizer


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END,
        "model_max_length": POSITIONS,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def llama_config(shape: Shape = TINY) -> dict[str, Any]:
    """config.json of the Llama."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float32",
    }


def llama_weights(seed: int, shape: Shape = TINY) -> dict[str, NDArray[np.float32]]:
    """Its tensors by name, each `(rows, columns)` or `(size,)`."""
    rng = np.random.default_rng(seed)
    hidden, intermediate = shape.hidden, shape.intermediate
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        scale = np.float32(1 / math.sqrt(columns))
        return rng.standard_normal((rows, columns), dtype=np.float32) * scale

    def ones() -> NDArray[np.float32]:
        return np.ones(hidden, dtype=np.float32)

    weights = {
        "model.embed_tokens.weight": matrix(VOCABULARY, hidden),
        "model.norm.weight": ones(),
        "lm_head.weight": matrix(VOCABULARY, hidden),
    }
    for layer in range(shape.layers):
        name = f"model.layers.{layer}"
        weights |= {
            f"{name}.input_layernorm.weight": ones(),
            f"{name}.post_attention_layernorm.weight": ones(),
            f"{name}.self_attn.q_proj.weight": matrix(queries, hidden),
            f"{name}.self_attn.k_proj.weight": matrix(keys, hidden),
            f"{name}.self_attn.v_proj.weight": matrix(keys, hidden),
            f"{name}.self_attn.o_proj.weight": matrix(hidden, queries),
            f"{name}.mlp.gate_proj.weight": matrix(intermediate, hidden),
            f"{name}.mlp.up_proj.weight": matrix(intermediate, hidden),
            f"{name}.mlp.down_proj.weight": matrix(hidden, intermediate),
        }
    return weights


def _running_sum(values: Iterator[float]) -> Iterator[float]:
    total = 0.0
    for value in values:
        total += value
        yield total


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    print(make_tiny_model(Path(sys.argv[1])))
