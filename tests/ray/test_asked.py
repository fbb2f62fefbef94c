"""What a call asks for, read from what Ray Serve LLM hands over."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pydantic
import pytest

from preble_plugin.adapter.prompts import text_as_tokens
from preble_plugin.ray_ext.asked import asked

SYSTEM = {"role": "system", "content": "You answer in one word. " * 20}
QUESTION = {"role": "user", "content": "Why?"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10_000}}


def tokens(*args: Any, method: str = "chat") -> list[int] | None:
    found = asked(args, method, "").tokens
    return None if found is None else list(found)


def common(one: list[int] | None, other: list[int] | None) -> int:
    """How many tokens they begin with alike."""
    assert one is not None
    assert other is not None
    short = min(len(one), len(other))
    differ = np.flatnonzero(np.array(one[:short]) != np.array(other[:short]))
    return int(differ[0]) if len(differ) else short


def chat(*messages: Any, **more: Any) -> SimpleNamespace:
    return SimpleNamespace(messages=list(messages), **more)


def test_text_is_compared_as_text() -> None:
    assert tokens(SimpleNamespace(prompt="a long story")) == list(text_as_tokens(b"a long story"))


def test_token_ids_are_taken_as_they_are() -> None:
    assert tokens(SimpleNamespace(prompt=[5, 6, 7])) == [5, 6, 7]


@pytest.mark.parametrize("prompt", [["one story", "two"], [[5, 6, 7], [8]]])
def test_of_several_prompts_the_first_decides(prompt: list[Any]) -> None:
    assert tokens(SimpleNamespace(prompt=prompt)) == tokens(SimpleNamespace(prompt=prompt[0]))


def test_conversations_with_a_common_start_meet() -> None:
    one, other = chat(SYSTEM, QUESTION), chat(SYSTEM, {"role": "user", "content": "Who?"})
    assert common(tokens(one), tokens(other)) > len(str(SYSTEM["content"])) // 4


def test_a_conversation_goes_on_from_its_earlier_turns() -> None:
    answer = {"role": "assistant", "content": "Because."}
    first = tokens(chat(SYSTEM, QUESTION))
    assert first is not None
    assert common(first, tokens(chat(SYSTEM, QUESTION, answer, QUESTION))) == len(first)


def test_other_tools_make_another_start() -> None:
    tool = {"type": "function", "function": {"name": "weather"}}
    assert common(tokens(chat(SYSTEM, tools=[tool])), tokens(chat(SYSTEM))) < 5


def test_tools_and_messages_may_be_pydantic_models() -> None:
    class Message(pydantic.BaseModel):
        role: str
        content: str

    assert tokens(chat(Message.model_validate(SYSTEM))) == tokens(chat(SYSTEM))


def test_a_conversation_is_read_up_to_a_picture() -> None:
    seen = {"role": "user", "content": [{"type": "text", "text": "What is this?"}, PICTURE]}
    assert tokens(chat(SYSTEM, seen, QUESTION)) == tokens(chat(SYSTEM))


def test_a_dict_is_read_like_an_object() -> None:
    assert tokens({"prompt": "a story"}) == tokens(SimpleNamespace(prompt="a story"))


@pytest.mark.parametrize("args", [(), ("text",), (object(),), ({"input": "text"},), (None, 3)])
def test_what_has_no_prompt_is_placed_by_load(args: tuple[Any, ...]) -> None:
    assert tokens(*args) is None


def test_tokenizing_computes_nothing() -> None:
    assert tokens(SimpleNamespace(prompt="a story"), method="tokenize") is None


def test_adapter_and_salt_make_a_namespace() -> None:
    body = SimpleNamespace(prompt="a story", cache_salt="s")
    spaces = {
        asked([body], "completions", "adapter").namespace,
        asked([body], "completions", "").namespace,
        asked([SimpleNamespace(prompt="a story")], "completions", "").namespace,
    }
    assert len(spaces) == 3


def test_the_bound_of_the_output_is_known() -> None:
    body = chat(QUESTION, max_completion_tokens=None, max_tokens=7)
    assert asked([body], "chat", "").max_output_tokens == 7
