from __future__ import annotations

import pytest

from preble_plugin.sim.first_come import FirstCome


def test_who_comes_first_goes_first_and_who_comes_back_before_all() -> None:
    made: FirstCome[str] = FirstCome()
    for item, tokens in (("a", 9000), ("b", 1)):
        made.add(item, tokens)
    made.put_back("z")
    made.begin_step()
    assert (len(made), list(made), made.peek()) == (3, ["z", "a", "b"], "z")
    assert [made.pop() for _ in range(3)] == ["z", "a", "b"]


def test_an_empty_one_has_nothing_to_show() -> None:
    made: FirstCome[str] = FirstCome()
    assert not made
    for call in (made.peek, made.pop):
        with pytest.raises(IndexError):
            call()
