"""Workloads cut down for a small machine keep who shares what, and when."""

import pytest

from benchmarks.validate.scaling import SCALES, Cell, Scale, scaled
from preble_plugin.sim.asked import Asked
from preble_plugin.sim.sharing import table_row
from preble_plugin.sim.workloads import make


def test_lengths_are_divided_and_times_kept() -> None:
    whole = make("document", requests=60, rate=2, seed=1)
    cut = scaled(whole, Scale(prompts=10, outputs=2))
    assert [one.at for one in cut] == [one.at for one in whole]
    for long, short in zip(whole, cut, strict=True):
        assert short.prompt_tokens == pytest.approx(long.prompt_tokens / 10, abs=2)
        assert short.output_tokens == max(1, round(long.output_tokens / 2))


def test_what_is_shared_stays_shared() -> None:
    whole = make("document", requests=200, rate=2, seed=1)
    shared, cut = (table_row(one).shared for one in (whole, scaled(whole, Scale(prompts=20))))
    assert cut == pytest.approx(shared, abs=0.01)


def test_sessions_are_cut_after_their_first_turns() -> None:
    cut = scaled(make("agent", requests=300, rate=3, seed=1), Scale(turns=3))
    turns = {one.request_id: one for one in cut}
    assert max(_turn(one, turns) for one in cut) == 3
    assert all(one.after is None or one.after in turns for one in cut)


def _turn(one: Asked, known: dict[str, Asked]) -> int:
    return 1 if one.after is None else 1 + _turn(known[one.after], known)


def test_a_prompt_goes_on_from_the_whole_of_a_shorter_answer() -> None:
    cut = scaled(make("agent", requests=100, rate=3, seed=1), Scale(prompts=2, outputs=4))
    answers = {one.answer: one.output_tokens for one in cut}
    parts = [part for one in cut for part in one.prompt if part.stream in answers]
    assert parts
    assert all(part.tokens == answers[part.stream] for part in parts)


@pytest.mark.parametrize("name", SCALES)
def test_each_scaled_workload_comes_at_its_rate_and_fits_the_tiny_model(name: str) -> None:
    cut = Cell(name, rate=6.0, requests=300, seed=1).workload()
    assert max(one.prompt_tokens + one.output_tokens for one in cut) <= 4096
    assert len(cut) == pytest.approx(300, rel=0.15)
    assert max(one.at for one in cut if one.after is None) == pytest.approx(50, rel=0.15)


def test_a_workload_without_a_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="no scale for workload 'video'"):
        Cell("video", rate=1, requests=10, seed=1).workload()
