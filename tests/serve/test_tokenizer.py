"""Ids as transformers itself makes them, whether a text was seen before or not."""

from __future__ import annotations

import string
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preble_plugin.serve.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from tests.serve.tiny_tokenizer import make_tokenizer

TALK = [
    {"role": "user", "content": "The quick  brown fox\n"},
    {"role": "assistant", "content": "jumps — 1,234 你好"},
    {"role": "user", "content": " over"},
]


@pytest.fixture(scope="module")
def loaded(tokenizer_dir: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_dir)


@pytest.fixture(scope="module")
def tokenizer(loaded: Any) -> Tokenizer:
    return Tokenizer(loaded, None, 1 << 20)


def test_a_conversation_is_rendered_and_encoded_as_transformers_does(
    tokenizer: Tokenizer, loaded: Any
):
    expected = loaded.apply_chat_template(
        TALK, tokenize=True, add_generation_prompt=True, return_dict=False
    )
    for _ in range(2):  # the second time from what was kept
        text = tokenizer.render(TALK, None, {"add_generation_prompt": True})
        assert tokenizer.encode(text, False).tolist() == expected


pieces = st.sampled_from(
    ["<|turn|>", "<|end|>", "<|", "|>", " ", "\n", "é", "你", *string.printable]
)


@settings(max_examples=300)
@given(st.lists(pieces, max_size=40), st.booleans())
def test_text_that_is_cut_gives_the_same_ids(
    tokenizer: Tokenizer, loaded: Any, texts: list[str], special: bool
):
    text = "".join(texts)
    expected = loaded.encode(text, add_special_tokens=special)
    assert tokenizer.encode(text, special).tolist() == expected


def test_only_messages_not_seen_before_are_encoded(loaded: Any):
    counted = Counting(loaded)
    tokenizer = Tokenizer(counted, None, 1 << 20)
    counted.encoded.clear()
    talk: list[dict[str, str]] = []
    for message in TALK:
        talk.append(message)
        tokenizer.encode(tokenizer.render(talk, None, {}), False)

    assert len([text for text in counted.encoded if text.startswith("<|turn|>")]) == len(TALK)


def test_what_is_kept_is_bounded_and_the_oldest_goes(loaded: Any):
    counted = Counting(loaded)
    tokenizer = Tokenizer(counted, None, 8_000)
    tokenizer.encode("the first text", False)
    for number in range(100):
        tokenizer.encode(f"another text {number}", False)
    counted.encoded.clear()
    tokenizer.encode("another text 99", False)
    tokenizer.encode("the first text", False)

    assert counted.encoded == ["the first text"]


def test_several_threads_get_the_same_ids(tokenizer: Tokenizer, loaded: Any):
    texts = [f"{number} quick <|turn|> foxes {number % 7}" for number in range(200)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda text: tokenizer.encode(text, False).tolist(), texts * 3))
    assert found[:200] == [loaded.encode(text, add_special_tokens=False) for text in texts]
    assert found[:200] == found[200:400] == found[400:]


def test_tokens_that_take_white_space_with_them_do_not_cut(tokenizer_dir: str):
    from transformers import AddedToken, AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tokenizer_dir)
    mask = AddedToken("<|mask|>", lstrip=True, rstrip=True, normalized=False, special=True)
    loaded.add_special_tokens({"mask_token": mask})
    text = "the <|mask|> quick <|turn|> brown <|mask|>"

    found = Tokenizer(loaded, None, 1 << 20).encode(text, False).tolist()
    assert found == loaded.encode(text, add_special_tokens=False)


def test_a_template_that_raises_or_that_is_not_there_is_named(loaded: Any, tmp_path: Path):
    raising = Tokenizer(loaded, "{{ raise_exception('no such role') }}", 1 << 20)
    with pytest.raises(TokenizerError, match=r"the chat template raises \w+$"):
        raising.render(TALK, None, {})
    with pytest.raises(TokenizerError, match="'/nowhere' cannot be loaded"):
        load_tokenizer("/nowhere", None, 1 << 20)


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path):
    import json

    directory = make_tokenizer(tmp_path)
    config = json.loads((directory / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")

    with pytest.raises(TokenizerError):
        load_tokenizer(str(directory), None, 1 << 20)
    assert not (tmp_path / "ran").exists()


class Counting:
    """A tokenizer that keeps what it was asked to encode."""

    def __init__(self, loaded: Any) -> None:
        self.encoded: list[str] = []
        self._loaded = loaded
        self.added_tokens_decoder = loaded.added_tokens_decoder
        self.backend_tokenizer = self

    def apply_chat_template(self, *given: Any, **named: Any) -> Any:
        return self._loaded.apply_chat_template(*given, **named)

    def encode(self, text: str, add_special_tokens: bool) -> Any:
        self.encoded.append(text)
        return self._loaded.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens)
