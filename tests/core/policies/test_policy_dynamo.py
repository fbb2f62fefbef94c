from __future__ import annotations

import pytest
from builders import BLOCK, chosen, decode, hold, place, prompt, scheduler, wait, wait_seconds

from preble_plugin.core import Finished, FirstToken, Scheduler

DOCUMENT = prompt(1, 128)


def holder(blocks: int = 100) -> Scheduler:
    """Replica 1 of two holds so many blocks of the document's 128."""
    made = scheduler(2, policy="dynamo")
    hold(made, 1, DOCUMENT[: blocks * BLOCK])
    return made


@pytest.mark.parametrize(("active", "expected"), [(99, 1), (101, 0)])
def test_a_block_to_compute_weighs_as_much_as_one_in_use(active, expected):
    made = holder()
    decode(made, 1, 1, active * BLOCK)
    assert chosen(made, DOCUMENT) == (expected, "dynamo")


@pytest.mark.parametrize(("queued", "expected"), [(49, 1), (51, 0)])
def test_queued_prefill_counts_by_what_has_to_be_computed(queued, expected):
    # A block that waits is one to compute and one in use.
    made = holder()
    wait(made, 1, queued * BLOCK)
    assert chosen(made, DOCUMENT)[0] == expected


@pytest.mark.parametrize(("shared", "expected"), [(60, 0), (20, 1)])
def test_blocks_that_the_prompt_shares_with_one_in_flight_are_not_added(shared, expected):
    # Nothing is cached on either: 128 + 50 + (128 - shared), against 128 + 10 + 128.
    made = scheduler(2, policy="dynamo")
    for replica, tokens in [(0, DOCUMENT[: shared * BLOCK]), (1, prompt(2, 10))]:
        place(made, f"in flight {replica}", tokens, fixed_replica=replica, reads_cache=False)
        made.observe(replica, [FirstToken(f"in flight {replica}", 0, timed=False)], 0.0)
    decode(made, 0, 1, (50 - shared) * BLOCK if shared < 50 else 1)
    assert chosen(made, DOCUMENT, reads_cache=False)[0] == expected


@pytest.mark.parametrize("fewer", [0, 1])
def test_less_than_a_block_counts_as_the_share_it_is(fewer):
    made = scheduler(2, policy="dynamo")
    for replica in range(2):
        wait(made, replica, 7 if replica == fewer else 8)
    assert chosen(made, DOCUMENT)[0] == fewer


def test_seconds_and_requests_are_not_looked_at():
    made = holder(blocks=2)
    decode(made, 1, 300, 1)
    assert chosen(made, DOCUMENT)[0] == 1
    wait_seconds(made, 0, 1.0)
    assert chosen(made, DOCUMENT)[0] == 1


def test_questions_about_one_document_stay_as_it_is_in_use_once():
    made = scheduler(2, policy="dynamo")
    document = prompt(1, 200)
    hold(made, 1, document)
    for name in range(20):
        asked = place(made, str(name), document + prompt(100 + name, 4))
        made.observe(1, [FirstToken(str(name), asked.cached_tokens)], 0.1)
        assert asked.replica == 1
    # 200 + 20 * 4 blocks are in use there, and this one needs 50 anywhere.
    assert place(made, "new", prompt(2, 50), 1.0).replica == 0


def test_a_prompt_in_flight_weighs_until_it_ends():
    made = scheduler(2, policy="dynamo")
    held = prompt(1, 20)
    hold(made, 1, held)
    place(made, "long", prompt(2, 50), fixed_replica=1)
    made.observe(1, [FirstToken("long", 0)], 0.5)
    assert place(made, "a", held, 0.5).replica == 0  # 20 + 20 against 50 + 1 + 20
    made.observe(0, [Finished("a", 0, aborted=True)], 0.6)
    made.observe(1, [Finished("long", 5)], 1.0)
    assert place(made, "b", held, 1.0).replica == 1
