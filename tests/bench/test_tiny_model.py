import json
from pathlib import Path

import pytest

from preble_plugin.bench import workload
from preble_plugin.bench.tiny_model import VOCABULARY, Shape, make_tiny_model

tokenizers = pytest.importorskip("tokenizers")
safetensors = pytest.importorskip("safetensors.numpy")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def test_the_same_seed_gives_the_same_files(model: Path, tmp_path: Path) -> None:
    again = make_tiny_model(tmp_path / "again")
    assert {file.name: file.read_bytes() for file in again.iterdir()} == {
        file.name: file.read_bytes() for file in model.iterdir()
    }


def test_a_model_that_is_there_is_left_as_it_is(model: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in model.iterdir()}
    make_tiny_model(model)
    assert before == {file.name: file.stat().st_mtime_ns for file in model.iterdir()}


def test_making_it_leaves_nothing_beside_it(model: Path) -> None:
    assert [found.name for found in model.parent.iterdir()] == ["tiny"]


def test_tokenizer_and_weights_agree_on_the_vocabulary(model: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    weights = safetensors.load_file(model / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    rows = {config["vocab_size"], tokenizer.get_vocab_size(), len(weights["lm_head.weight"])}
    assert rows == {VOCABULARY}


def test_any_text_comes_back_from_its_tokens(model: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    text = "Stan re, 北京 and \N{SNOWMAN}: 100 %.\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_prompts_of_the_workload_have_the_length_asked_for(model: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    lengths = [
        len(tokenizer.encode(call.content).ids)
        for call in workload.unique(8, 5.0, tokens=3000).calls
    ]
    assert sum(lengths) / len(lengths) == pytest.approx(3000, rel=0.05)


def test_another_shape_is_in_config_and_weights(tmp_path: Path) -> None:
    shape = Shape(hidden=64, layers=2, heads=2, kv_heads=1, head_dim=32, intermediate=96)
    made = make_tiny_model(tmp_path / "other", shape=shape)
    config = json.loads((made / "config.json").read_text())
    weights = safetensors.load_file(made / "model.safetensors")
    assert (config["hidden_size"], config["num_hidden_layers"]) == (64, 2)
    assert weights["model.layers.1.mlp.down_proj.weight"].shape == (64, 96)
    assert weights["model.layers.1.self_attn.k_proj.weight"].shape == (32, 64)
    assert "model.layers.2.mlp.down_proj.weight" not in weights
