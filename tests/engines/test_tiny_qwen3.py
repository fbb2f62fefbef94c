import json
from pathlib import Path

import pytest

from preble_plugin.bench.tiny_model import make_tiny_model
from tests.engines.tiny_qwen3 import make_tiny_qwen3

pytest.importorskip("tokenizers")
safetensors = pytest.importorskip("safetensors.numpy")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    home = tmp_path_factory.mktemp("models")
    return make_tiny_model(home / "llama"), make_tiny_qwen3(home / "qwen3")


def test_it_has_the_tokenizer_of_the_llama(models: tuple[Path, Path]) -> None:
    llama, qwen3 = [(model / "tokenizer.json").read_bytes() for model in models]
    assert llama == qwen3


def test_it_says_that_it_is_a_qwen3(models: tuple[Path, Path]) -> None:
    config = json.loads((models[1] / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["Qwen3ForCausalLM"], "qwen3")


def test_each_layer_has_a_norm_on_queries_and_keys_beside_what_a_llama_has(
    models: tuple[Path, Path],
) -> None:
    llama, qwen3 = [safetensors.load_file(model / "model.safetensors") for model in models]
    more = {name.split(".", 3)[3] for name in qwen3.keys() - llama.keys()}
    assert more == {"self_attn.q_norm.weight", "self_attn.k_norm.weight"}
