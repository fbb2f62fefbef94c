"""What waits on a rank is taken up cached first, and answered as it would be anyway."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from preble_plugin.bench.sglang_server import SglangServer
from tests.engines import serving
from tests.engines.client import tokens
from tests.engines.preble import until
from tests.sglang.preble_servers import TWO, SglangClient

pytestmark = [pytest.mark.sglang, serving(TWO)]
DOCUMENT = tokens(2100, 800)
LONG = 2100
"""A prompt beside which a rank has no room for another like it."""


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_what_is_cached_goes_first_and_is_answered_as_alone(
    server: SglangServer, threads: ThreadPoolExecutor
) -> None:
    """First come, first served would compute the long ones before the last, and evict
    the document for them."""
    client = SglangClient(server)
    client.flush_cache()
    client.generate(DOCUMENT, routed_dp_rank=0)
    holds = client.generated(tokens(2101, 2400), max_new_tokens=600, routed_dp_rank=0)
    next(holds)
    asked = {f"long-{number}": tokens(number, LONG) for number in range(3)}
    asked["cached"] = DOCUMENT + tokens(2102, 40)
    ended: list[str] = []
    answers: dict[str, Future[Any]] = {}

    def ask(name: str) -> Any:
        answer = client.generate(asked[name], routed_dp_rank=0)
        ended.append(name)
        return answer

    for name in asked:
        answers[name] = threads.submit(ask, name)
        until(client.waiting, lambda count: count == len(answers))
    holds.close()
    found = {name: answer.result() for name, answer in answers.items()}
    assert ended.index("cached") < ended.index("long-1") < ended.index("long-2")
    assert found["cached"]["meta_info"]["cached_tokens"] == len(DOCUMENT)
    for name, prompt in asked.items():
        alone = client.generate(prompt, routed_dp_rank=0)
        assert alone["output_ids"] == found[name]["output_ids"]
    assert "what waits is taken up by preble" in server.log_text()
    assert "preble failed" not in server.log_text()
