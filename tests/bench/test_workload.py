import pytest

from preble_plugin.bench import workload
from preble_plugin.bench.workload import Call


def shared_prefix(one: Call, other: Call) -> int:
    pairs = zip(one.content, other.content, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), len(one.content))


def test_the_same_seed_gives_the_same_calls() -> None:
    assert workload.documents(48, 5.0, seed=3) == workload.documents(48, 5.0, seed=3)


def test_another_seed_gives_other_documents() -> None:
    one, other = workload.documents(24, 5.0, seed=3), workload.documents(24, 5.0, seed=4)
    assert not {call.content for call in one.calls} & {call.content for call in other.calls}


def test_questions_about_one_document_share_it_and_differ_after_it() -> None:
    first, second = [call for call in workload.documents(48, 5.0).calls if call.document == 0]
    document = first.content.index("\n\nQuestion:")
    assert document < shared_prefix(first, second) < len(first.content) - len("\nAnswer:")


def test_every_document_is_asked_equally_often() -> None:
    calls = workload.documents(48, 5.0, subjects=16).calls
    assert [sum(call.document == number for call in calls) for number in range(16)] == [3] * 16


def test_unique_prompts_share_no_block_of_32_tokens() -> None:
    calls = workload.unique(20, 5.0).calls
    longest = max(shared_prefix(a, b) for at, a in enumerate(calls) for b in calls[:at])
    assert longest < 32  # a token is a character or more


def test_calls_arrive_in_order_at_the_rate_asked_for() -> None:
    times = [call.at_seconds for call in workload.unique(2000, 8.0, tokens=5).calls]
    assert times == sorted(times)
    assert 2000 / times[-1] == pytest.approx(8.0, rel=0.01)


def test_fewer_requests_than_documents_are_refused() -> None:
    with pytest.raises(ValueError, match="10 requests cannot ask about 24 documents"):
        workload.documents(10, 5.0)


def test_a_rate_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="rate must be above 0"):
        workload.unique(10, 0.0)
