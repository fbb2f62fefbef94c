from __future__ import annotations

from builders import place, prompt, scheduler, store
from policy_views import Candidate, chosen, replicas, view

from preble_plugin.core import Finished
from preble_plugin.core.policies.total_tokens import TotalTokens


def test_the_fewest_tokens_win_over_the_fewest_requests():
    candidates = [
        Candidate(0, tokens_in_flight=9000, running=1),
        Candidate(1, tokens_in_flight=8999, waiting=20, running=40),
    ]

    assert chosen(TotalTokens(), view(10, *candidates)) == (1, "total-tokens")


def test_of_equal_tokens_the_fewest_requests_win():
    candidates = replicas(3, tokens_in_flight=4000, waiting=2, running=2)
    candidates[2].waiting = 1

    assert chosen(TotalTokens(), view(10, *candidates))[0] == 2


def test_of_equals_the_lowest_slot_wins():
    candidates = [Candidate(4), Candidate(7), Candidate(9)]

    assert chosen(TotalTokens(), view(10, *candidates))[0] == 4


def test_what_is_cached_is_not_looked_at():
    candidates = replicas(2, holding=[1], hit=2000)

    assert chosen(TotalTokens(), view(2048, *candidates))[0] == 0


def test_placed_prompts_count_whole_until_they_end():
    made = scheduler(2, policy="total-tokens")
    made.apply(0, [store(prompt(1, 100))], 0.0)
    assert place(made, "long", prompt(1, 100)).replica == 0
    assert [place(made, name, prompt(2, 30)).replica for name in "abcd"] == [1, 1, 1, 1]
    assert place(made, "e", prompt(2, 30)).replica == 0  # 1600 tokens against 1920
    made.observe(0, [Finished("long", 3)], 1.0)
    assert place(made, "f", prompt(2, 30), 1.0).replica == 0  # 480 against 1920
