"""Each workload has the shape it is described with."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from preble_plugin.sim.arrivals import azure
from preble_plugin.sim.asked import Asked, Part
from preble_plugin.sim.sharing import table_row
from preble_plugin.sim.workloads import make, workload_names

CLOSED = {"agent", "chat"}


def drawn(
    name: str, requests: int = 300, rate: float = 5.0, seed: int = 1, **more: object
) -> list[Asked]:
    return make(name, requests=requests, rate=rate, seed=seed, **more)


@pytest.mark.parametrize("name", sorted(CLOSED))
def test_a_turn_goes_on_from_the_whole_answer_before_it(name: str) -> None:
    asked = drawn(name, requests=400)
    by_id = {request.request_id: request for request in asked}

    later = [request for request in asked if request.after is not None]
    assert later
    for request in later:
        before = by_id[str(request.after)]
        assert before.answer is not None
        grown = (*before.prompt, Part(before.answer, before.output_tokens))
        assert request.prompt[: len(grown)] == grown
        assert len(request.prompt) == len(grown) + 1
        assert request.session_id == before.session_id


@pytest.mark.parametrize("name", sorted(set(workload_names()) - CLOSED))
def test_only_sessions_wait_for_answers(name: str) -> None:
    assert all(request.after is None for request in drawn(name))


def test_agents_act_some_48_times_with_short_pauses() -> None:
    asked = drawn("agent", requests=4800, observe_seconds=0.2)
    turns = Counter(request.session_id for request in asked)

    assert sum(turns.values()) / len(turns) == pytest.approx(48, rel=0.05)
    pauses = [request.at for request in asked if request.after is not None]
    assert sum(pauses) / len(pauses) == pytest.approx(0.2, rel=0.02)


def test_chats_have_as_many_turns_and_as_long_pauses_as_asked_for() -> None:
    asked = drawn("chat", requests=4000, turns=4, think_seconds=3)
    turns = Counter(request.session_id for request in asked)

    assert sum(turns.values()) / len(turns) == pytest.approx(4, rel=0.05)
    pauses = [request.at for request in asked if request.after is not None]
    assert sum(pauses) / len(pauses) == pytest.approx(3, rel=0.05)
    assert {request.prompt[0] for request in asked} == {asked[0].prompt[0]}


def test_a_chat_of_one_turn_is_one_request() -> None:
    assert all(request.after is None for request in drawn("chat", turns=1))


def test_unique_prompts_share_nothing() -> None:
    assert table_row(drawn("unique", requests=1000)).shared == 0


def test_nine_of_ten_share_the_hot_prefix() -> None:
    uses = Counter(request.prompt[0] for request in drawn("hot", requests=2000, others=50))

    assert [count for _, count in uses.most_common(1)] == [1800]
    assert len(uses) == 51
    assert {count for _, count in uses.most_common()[1:]} <= {3, 4, 5}


def test_a_burst_is_16_equal_prompts_at_once_with_answers_of_their_own() -> None:
    asked = drawn("bursts", requests=160)
    groups = [asked[start : start + 16] for start in range(0, 160, 16)]

    assert all(len({(request.at, request.prompt) for request in group}) == 1 for group in groups)
    assert all(len({request.output_tokens for request in group}) > 4 for group in groups)
    assert len({group[0].prompt for group in groups}) == len({g[0].at for g in groups}) == 10


def test_the_large_prefix_exceeds_the_cache_it_is_told_of() -> None:
    (prefix,) = {one.prompt[0] for one in drawn("large", cache_tokens=10_000, prefixes=1)}

    assert prefix.tokens == 13_000


def test_the_large_prefix_can_be_spread_over_several() -> None:
    asked = drawn("large", cache_tokens=10_000, times_cache=1.5, prefixes=5)

    uses = Counter(request.prompt[0] for request in asked)
    assert {part.tokens for part in uses} == {3_000}
    assert list(uses.values()) == [60] * 5


def test_tools_are_called_by_zipfs_law() -> None:
    asked = drawn("tool-zipf", requests=5000, tools=100)
    calls = [count for _, count in Counter(r.prompt[1] for r in asked).most_common()]

    mass = sum(k**-1.1 for k in range(1, 101))
    assert calls[0] == pytest.approx(5000 / mass, abs=2)
    assert calls[9] == pytest.approx(5000 * 10**-1.1 / mass, abs=2)
    assert sum(calls) == 5000


def test_a_longer_run_has_more_documents_not_more_at_a_time() -> None:
    def reach(requests: int) -> float:
        """How far apart, in requests, questions about one document lie on average."""
        asked = drawn("document", requests=requests, live=10)
        places: dict[Part, list[int]] = {}
        for place, request in enumerate(asked):
            places.setdefault(request.prompt[1], []).append(place)
        gaps = [min(b - a, requests - b + a) for row in places.values() for a, b in pairwise(row)]
        return sum(gaps) / len(gaps)

    assert reach(4000) == pytest.approx(reach(1000), rel=0.2)
    assert reach(1000) < 20


def test_real_documents_have_their_lengths_and_questions() -> None:
    asked = drawn("document-real", requests=80)

    uses = Counter(request.prompt[1].tokens for request in asked)
    characters = {68760: 11, 93866: 12, 126664: 16, 66133: 25, 78382: 16}
    assert uses == {round(count / 4.3): asked for count, asked in characters.items()}


def test_beyond_the_last_question_documents_come_again_as_new_ones() -> None:
    documents = {request.prompt[1] for request in drawn("document-real", requests=160)}

    assert len(documents) == 10
    assert len({part.tokens for part in documents}) == 5


def test_real_videos_are_close_to_the_papers_generated_ones() -> None:
    row = table_row(drawn("video-real", requests=4996))

    assert row.prompt_tokens.mean == pytest.approx(9865, rel=0.1)
    assert row.prompt_tokens.sd == pytest.approx(5976, rel=0.1)
    assert row.output_tokens.mean == pytest.approx(4, rel=0.1)
    assert row.key_requests.mean == pytest.approx(8.76, rel=0.01)
    assert row.shared == pytest.approx(0.88, rel=0.05)


def test_the_azure_mix_has_tools_at_the_times_of_code() -> None:
    asked = make("mixed-azure", requests=28_185, rate=10, seed=1)

    kinds = Counter(request.request_id.split("-")[0] for request in asked)
    assert kinds == {"tool": 8819, "video": 19366}
    coding = [request.at for request in asked if request.request_id.startswith("tool")]
    code = azure("code") - azure("code")[0]
    stretch = (coding[-1] - coding[0]) / code[-1]
    assert [at - coding[0] for at in coding[:500]] == pytest.approx(list(code[:500] * stretch))


def test_mooncake_is_replayed_with_what_it_shared() -> None:
    row = table_row(make("mooncake", requests=12_031, rate=3.4, seed=1))

    assert row.prompt_tokens.mean == pytest.approx(12_035, abs=1)
    # Of all blocks 37 % came before; long prompts share less than short ones.
    assert row.shared == pytest.approx(0.41, abs=0.01)
