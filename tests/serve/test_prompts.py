"""From request bodies to ids: text, conversations, tools, and what cannot be read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from preble_plugin.serve.asked import Asked, understand
from preble_plugin.serve.facts import AskError
from preble_plugin.serve.kinds import Kind
from preble_plugin.serve.learning import DIALECTS
from preble_plugin.serve.prompts import Prompts
from preble_plugin.serve.tokenizer import Tokenizer, load_tokenizer
from tests.serve.tiny_tokenizer import PARTS, make_tokenizer

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
PICTURE = {"type": "image_url", "image_url": {"url": "data:"}}


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: str) -> Tokenizer:
    return load_tokenizer(tokenizer_dir, None, 1 << 20)


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


@pytest.fixture
def prompts(tokenizer: Tokenizer, threads: ThreadPoolExecutor) -> Prompts:
    return Prompts(tokenizer, DIALECTS["vllm"], threads)


def asked(kind: Kind, **body: Any) -> Asked:
    found = understand(kind, json.dumps(body).encode())
    assert found is not None
    return found


async def ids(prompts: Prompts, kind: Kind, **body: Any) -> list[int] | None:
    found = await prompts.tokens(asked(kind, **body).prompt)
    return None if found is None else [int(one) for one in found]


def expected(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, False).tolist()


@pytest.mark.parametrize(
    ("kind", "body", "tokens", "count"),
    [
        (Kind.COMPLETION, {"prompt": [1, 2, 3]}, [1, 2, 3], 1),
        (Kind.COMPLETION, {"prompt": [[1, 2], [3]]}, [1, 2], 2),
        (Kind.EMBEDDING, {"input": [1, 2]}, [1, 2], 1),
        (Kind.GENERATE, {"input_ids": [4, 5]}, [4, 5], 1),
        (Kind.CHAT, {"input_ids": [6], "messages": []}, [6], 1),
    ],
)
async def test_ids_are_taken_as_they_are(
    prompts: Prompts, kind: Kind, body: dict[str, Any], tokens: list[int], count: int
):
    assert await ids(prompts, kind, **body) == tokens
    assert asked(kind, **body).prompts == count


async def test_text_is_encoded(prompts: Prompts, tokenizer: Tokenizer):
    text = "the quick brown fox"
    for kind, body in (
        (Kind.COMPLETION, {"prompt": text}),
        (Kind.COMPLETION, {"prompt": [text, "another"]}),
        (Kind.EMBEDDING, {"input": text}),
        (Kind.GENERATE, {"text": text}),
    ):
        assert await ids(prompts, kind, **body) == expected(tokenizer, text)


async def test_a_conversation_is_rendered(prompts: Prompts, tokenizer: Tokenizer):
    talk = [
        {
            "role": "system",
            "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "x"}],
        },
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ]
    shown = (
        '<|turn|>tools\n{"type": "function", "function": {"name": "f", "description": null, '
        '"parameters": {"type": "object"}}}\n<|end|>\n'
        "<|turn|>system\nBe\nx<|end|>\n<|turn|>user\nHi<|end|>\n"
        '<|turn|>assistant\nf {"a": 1}<|end|>\n<|turn|>tool\ndone<|end|>\n<|turn|>assistant\n'
    )
    found = await ids(prompts, Kind.CHAT, messages=talk, tools=TOOLS)
    assert found == expected(tokenizer, shown)


async def test_a_template_that_takes_parts_gets_parts(
    tmp_path: Path, threads: ThreadPoolExecutor, tokenizer: Tokenizer
):
    made = load_tokenizer(str(make_tokenizer(tmp_path, PARTS)), None, 1 << 20)
    parted = Prompts(made, DIALECTS["vllm"], threads)
    for content in ("one two", [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]):
        found = await ids(parted, Kind.CHAT, messages=[{"role": "user", "content": content}])
        assert found == expected(tokenizer, "<|turn|>user\none two<|end|>\n<|turn|>assistant\n")


async def test_developers_are_the_system_where_a_template_knows_none(
    prompts: Prompts, tokenizer: Tokenizer
):
    one = [{"role": "developer", "content": "Be"}, {"role": "user", "content": "Hi"}]
    shown = "<|turn|>system\nBe<|end|>\n<|turn|>user\nHi<|end|>\n<|turn|>assistant\n"
    assert await ids(prompts, Kind.CHAT, messages=one) == expected(tokenizer, shown)

    late = [{"role": "system", "content": "Be"}, one[1], {"role": "developer", "content": "brief"}]
    shown = shown.replace("Be", "Be\n\nbrief")
    assert await ids(prompts, Kind.CHAT, messages=late) == expected(tokenizer, shown)


async def test_what_cannot_be_read_ends_what_is_matched(prompts: Prompts, tokenizer: Tokenizer):
    talk = [{"role": "user", "content": "Hi"}, {"role": "user", "content": [PICTURE]}]
    found = await ids(prompts, Kind.CHAT, messages=talk)
    assert found == expected(tokenizer, "<|turn|>user\nHi<|end|>\n")


async def test_responses_are_conversations(prompts: Prompts, tokenizer: Tokenizer):
    shown = "<|turn|>system\nBe brief<|end|>\n<|turn|>user\nHi<|end|>\n<|turn|>assistant\n"
    talk = [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]
    for given in ("Hi", talk):
        found = await ids(prompts, Kind.RESPONSES, instructions="Be brief", input=given)
        assert found == expected(tokenizer, shown)
    assert await ids(prompts, Kind.RESPONSES, input="Hi", previous_response_id="r") is None


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Kind.COMPLETION, {}),
        (Kind.COMPLETION, {"prompt": []}),
        (Kind.COMPLETION, {"prompt": {"a": 1}}),
        (Kind.COMPLETION, {"prompt": [None]}),
        (Kind.CHAT, {"messages": "Hi"}),
        (Kind.CHAT, {"messages": [1]}),
        (Kind.CHAT, {"messages": [{"role": 1}]}),
        (Kind.CHAT, {"messages": [{"role": "user", "content": 5}]}),
        (Kind.CHAT, {"messages": [{"role": "user", "content": "a"}], "chat_template": "{{ 1 }}"}),
        (Kind.RESPONSES, {"input": 4}),
        (Kind.GENERATE, {"text": 4}),
    ],
)
async def test_what_is_no_prompt_has_no_ids(prompts: Prompts, kind: Kind, body: dict[str, Any]):
    assert await ids(prompts, kind, **body) is None
    assert prompts.failures == 0


async def test_what_a_template_refuses_is_counted_and_not_logged(
    tokenizer_dir: str, threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
):
    raising = load_tokenizer(tokenizer_dir, "{{ raise_exception(messages[0].content) }}", 1 << 20)
    prompts = Prompts(raising, DIALECTS["vllm"], threads)
    assert await ids(prompts, Kind.CHAT, messages=[{"role": "user", "content": "Hush"}]) is None
    assert prompts.failures == 1
    assert "the chat template raises TemplateError" in caplog.text
    assert "Hush" not in caplog.text


def test_limits_and_names_are_read_and_what_is_of_a_wrong_type_is_not():
    one = asked(
        Kind.CHAT,
        model="m",
        stream=True,
        max_completion_tokens=7,
        max_tokens=9,
        cache_salt="s",
        routed_dp_rank=2,
    )
    assert (one.model, one.stream, one.max_output_tokens, one.salt, one.rank) == (
        *("m", True, 7, "s"),
        2,
    )
    wrong = asked(Kind.CHAT, model=1, stream="yes", max_tokens="9", cache_salt=3, routed_dp_rank=-1)
    assert (wrong.model, wrong.stream, wrong.max_output_tokens, wrong.salt, wrong.rank) == (
        *(None, False, None, None),
        None,
    )
    assert asked(Kind.GENERATE, sampling_params={"max_new_tokens": 5}).max_output_tokens == 5


class Told:
    """A backend's `/tokenize`."""

    def __init__(self, tokenizer: Tokenizer, ending: str) -> None:
        self._tokenizer = tokenizer
        self._ending = ending

    async def json(self, path: str, body: Any = None) -> Any:
        if "prompt" in body:
            return {"tokens": self._tokenizer.encode(body["prompt"], True).tolist()}
        if "tools" in body:
            raise AskError("not here")
        shown = "".join(
            f"<|turn|>{one['role']}\n"
            + (one["content"] if isinstance(one["content"], str) else one["content"][0]["text"])
            + "<|end|>\n"
            for one in body["messages"]
        )
        text = f"{shown}<|turn|>assistant{self._ending}"
        return {"tokens": self._tokenizer.encode(text, False).tolist()}

    async def text(self, path: str) -> str:
        raise AskError("not here")


async def test_a_backend_that_tokenizes_otherwise_is_found_out(
    prompts: Prompts, tokenizer: Tokenizer
):
    assert await prompts.differences(Told(tokenizer, "\n"), "m") is None
    assert await prompts.differences(Told(tokenizer, ":"), "m") == "conversations"
