from __future__ import annotations

from builders import chosen, decode, hold, place, prompt, scheduler, wait

from preble_plugin.core import Finished


def test_the_fewest_tokens_win_over_the_fewest_requests():
    made = scheduler(2, policy="total-tokens")
    decode(made, 0, 1, 900)
    decode(made, 1, 6, 100)
    for _ in range(3):
        wait(made, 1, 99)
    assert chosen(made, prompt(1, 1)) == (1, "total-tokens")


def test_of_equal_tokens_the_fewest_requests_win():
    made = scheduler(3, policy="total-tokens")
    for replica, requests in enumerate((4, 2, 1)):
        decode(made, replica, requests, 40 // requests)
        for _ in range(requests):
            wait(made, replica, 40 // requests)
    assert chosen(made, prompt(1, 1))[0] == 2


def test_of_equals_the_lowest_slot_wins():
    made = scheduler(4, policy="total-tokens")
    made.remove_replica(0)
    assert {chosen(made, prompt(one, 1))[0] for one in range(12)} == {1}


def test_what_is_cached_is_not_looked_at():
    made = scheduler(2, policy="total-tokens")
    hold(made, 1, prompt(1, 100))
    assert chosen(made, prompt(1, 100))[0] == 0


def test_placed_prompts_count_whole_until_they_end():
    made = scheduler(2, policy="total-tokens")
    hold(made, 0, prompt(1, 100))
    assert place(made, "long", prompt(1, 100)).replica == 0
    assert [place(made, name, prompt(2, 30)).replica for name in "abcd"] == [1, 1, 1, 1]
    assert place(made, "e", prompt(2, 30)).replica == 0  # 1600 tokens against 1920
    made.observe(0, [Finished("long", 3)], 1.0)
    assert place(made, "f", prompt(2, 30), 1.0).replica == 0  # 480 against 1920
