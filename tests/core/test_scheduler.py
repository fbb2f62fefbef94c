from __future__ import annotations

import random

import pytest
from builders import BLOCK, hashes, place, prompt, request, scheduler, serve, store
from compiled import IMPLEMENTATIONS

from preble_plugin.core import (
    Attention,
    Clear,
    Finished,
    FirstToken,
    LoadReport,
    NoReplicaError,
    Remove,
    Request,
    Scheduler,
    Store,
    Trust,
    prefix_tree,
)
from preble_plugin.core.policies.protocol import Choice, View
from preble_plugin.core.tree_check import check_tree


def test_a_prompt_goes_where_its_prefix_is():
    made = scheduler(4)
    made.apply(2, [store(prompt(1, 20))], 0.0)
    placed = place(made, "a", prompt(1, 20, extra=5))
    assert (placed.replica, placed.cached_tokens, placed.branch) == (2, 320, "exploit")


def test_the_last_token_is_always_computed():
    made = scheduler(2)
    made.apply(1, [store(prompt(1, 20))], 0.0)
    assert place(made, "a", prompt(1, 20)).cached_tokens == 19 * BLOCK


def test_a_speculating_engine_computes_one_more_block():
    made = scheduler(1)
    made.add_replica(0, drop_blocks=1)
    made.apply(0, [store(prompt(1, 20))], 0.0)
    assert place(made, "a", prompt(1, 20, extra=5)).cached_tokens == 19 * BLOCK


def test_a_burst_with_one_new_prefix_stays_together():
    made = scheduler(2)
    first = place(made, "a", prompt(1, 30, extra=1))
    second = place(made, "b", prompt(1, 30, extra=9))
    assert second.replica == first.replica
    assert second.cached_tokens == 30 * BLOCK


def test_what_is_expected_ends_a_second_after_its_request():
    made = scheduler(1)
    place(made, "a", prompt(1, 30, extra=1))
    made.observe(0, [FirstToken("a", 0), Finished("a", 4)], 1.0)
    assert place(made, "b", prompt(1, 30, extra=2), 1.5).cached_tokens == 30 * BLOCK
    made.observe(0, [Finished("b", 0, aborted=True)], 1.6)
    assert place(made, "c", prompt(1, 30, extra=3), 2.1).cached_tokens == 0


def test_an_engine_message_ends_what_is_due_without_a_further_placement():
    made = scheduler(1)
    place(made, "a", prompt(1, 30, extra=1))
    made.observe(0, [FirstToken("a", 0), Finished("a", 4)], 1.0)
    made.observe(0, [], 1.9)
    assert made.status(1.9).tree_blocks == 30
    made.observe(0, [], 2.1)
    assert made.status(1.9).tree_blocks == 0


def test_a_status_counts_nothing_that_is_no_longer_expected():
    made = scheduler(1)
    place(made, "a", prompt(1, 30, extra=1))
    made.observe(0, [Finished("a", 1, aborted=True)], 1.0)
    assert made.status(1.9).replicas[0].expected_blocks == 30
    assert made.status(2.1).replicas[0].expected_blocks == 0


def test_placements_do_not_grow_the_tree_beyond_its_bound():
    made = scheduler(2, max_tree_blocks=50)
    for number in range(6):
        place(made, str(number), prompt(number, 20))
    status = made.status(0.0)
    assert (status.tree_blocks, status.in_flight) == (40, 6)


def test_an_abort_in_the_queue_ends_what_was_expected_at_once():
    made = scheduler(1)
    place(made, "a", prompt(1, 30, extra=1))
    made.observe(0, [Finished("a", 0, aborted=True)], 0.1)
    assert place(made, "b", prompt(1, 30, extra=2), 0.1).cached_tokens == 0


def test_the_store_event_takes_over_from_the_expectation():
    made = scheduler(1)
    place(made, "a", prompt(1, 30, extra=1))
    made.apply(0, [store(prompt(1, 30))], 0.1)
    assert made.status(0.1).replicas[0].expected_blocks == 0
    made.observe(0, [FirstToken("a", 0), Finished("a", 4)], 0.2)
    made.apply(0, [Remove(hashes(prompt(1, 30))[20:])], 0.3)
    assert place(made, "b", prompt(1, 30, extra=2), 0.3).cached_tokens == 20 * BLOCK


def test_a_distrusted_replica_is_taken_to_hold_what_was_placed_there_up_to_its_capacity():
    made = scheduler(1, capacity=100)
    made.set_trust(0, Trust.SILENT)
    for name in range(4):
        place(made, str(name), prompt(name, 40), float(name))
        made.observe(0, [FirstToken(str(name), 0), Finished(str(name), 4)], name + 0.5)
    assert place(made, "again 3", prompt(3, 40, extra=1), 60.0).cached_tokens == 40 * BLOCK
    assert place(made, "again 2", prompt(2, 40, extra=1), 60.0).cached_tokens == 40 * BLOCK
    assert made.status(60.0).replicas[0].expected_blocks <= 100 + 40
    assert place(made, "again 0", prompt(0, 40, extra=1), 60.0).cached_tokens == 0


def test_trust_regained_ends_the_guesses():
    made = scheduler(1, capacity=100)
    made.set_trust(0, Trust.REBUILDING)
    place(made, "a", prompt(1, 40))
    made.observe(0, [FirstToken("a", 0), Finished("a", 4)], 0.5)
    made.set_trust(0, Trust.EXACT)
    assert place(made, "b", prompt(1, 40), 0.6).cached_tokens == 0


def test_a_fixed_replica_is_obeyed_and_accounted():
    made = scheduler(2)
    made.apply(1, [store(prompt(1, 20))], 0.0)
    placed = place(made, "a", prompt(1, 20), fixed_replica=0)
    assert (placed.replica, placed.branch) == (0, "fixed")
    assert made.status(0.0).replicas[0].running == 1


def test_a_fixed_replica_that_is_not_there_is_named():
    with pytest.raises(NoReplicaError, match="7"):
        place(scheduler(2), "a", prompt(1, 2), fixed_replica=7)


def test_without_a_replica_there_is_no_placement():
    with pytest.raises(NoReplicaError, match=r"^no replicas: call add_replica\(\) first$"):
        place(scheduler(0), "a", prompt(1, 2))


def test_an_unknown_policy_names_those_there_are():
    with pytest.raises(ValueError, match=r"e2.*round-robin"):
        Scheduler(16, policy="e3")


def test_a_policy_that_was_made_already_decides_as_one_that_is_named():
    class Last:
        name = "last"

        def choose(self, view: View) -> Choice:
            return Choice(len(view.candidates) - 1, "last word")

    made = scheduler(3, policy=Last())
    placed = place(made, "a", prompt(1, 4))
    assert (placed.replica, placed.branch) == (2, "last word")
    assert made.explain("a")[0].policy == made.status(0.0).policy == "last"


@pytest.mark.parametrize("tokens", [[], [5], prompt(1, 0, extra=15)])
def test_a_prompt_without_a_full_block_is_placed_by_load(tokens):
    made = scheduler(2)
    place(made, "busy", prompt(9, 100), fixed_replica=0)
    assert place(made, "a", tokens).replica == 1


def test_a_request_that_skips_the_cache_is_priced_without_it():
    made = scheduler(2)
    made.apply(1, [store(prompt(1, 20))], 0.0)
    placed = place(made, "a", prompt(1, 20), reads_cache=False)
    assert placed.cached_tokens == 0
    assert place(made, "b", prompt(1, 20)).cached_tokens == 19 * BLOCK


def test_what_the_engine_dispatched_itself_is_accounted():
    made = scheduler(2)
    asked = request(made, "a", prompt(1, 50))
    made.dispatched(asked, 1, 0.0)
    assert made.status(0.0).replicas[1].queued_prefill_seconds > 0
    assert place(made, "b", prompt(1, 50, extra=1)).replica == 1


def test_a_request_told_again_after_its_first_token_is_load_and_teaches_nothing():
    made, untouched = scheduler(1), scheduler(1)
    made.dispatched(request(made, "a", prompt(1, 50)), 0, 5.0, started=True)
    made.observe(0, [FirstToken("a", 0)], 5.0)
    one, other = made.status(5.0).replicas[0], untouched.status(5.0).replicas[0]
    assert (one.running, one.queued_prefill_seconds) == (1, 0)
    assert one.queued_decode_seconds > 0
    assert one.prefill_tokens_per_second == other.prefill_tokens_per_second


def test_a_request_placed_twice_counts_once():
    made = scheduler(2)
    asked = request(made, "a", prompt(1, 50))
    first = made.place(asked, 0.0).replica
    made.dispatched(asked, 1 - first, 0.1)
    by_replica = {one.replica: one for one in made.status(0.1).replicas}
    assert (by_replica[first].running, by_replica[1 - first].running) == (0, 1)
    assert by_replica[first].queued_prefill_seconds == 0
    assert by_replica[first].expected_blocks == 0


def test_a_request_that_moves_leaves_the_tree_sound_and_nothing_expected():
    made = scheduler(2)
    for number in range(20):
        asked = request(made, str(number), prompt(number, 50))
        first = made.place(asked, number).replica
        made.dispatched(asked, 1 - first, number)
        check_tree(made._tree)
        made.observe(1 - first, [Finished(str(number), 0, aborted=True)], number)
    assert [one.expected_blocks for one in made.status(20.0).replicas] == [0, 0]


def test_an_id_that_comes_again_within_the_grace_second_stands_for_the_new_prompt():
    made = scheduler(1)
    place(made, "again", prompt(1, 20), 0.0)
    made.observe(0, [FirstToken("again", 0), Finished("again", 1)], 0.1)
    place(made, "again", prompt(2, 30), 0.2)
    assert place(made, "other", prompt(3, 1), 2.0).cached_tokens == 0
    assert made.status(2.0).replicas[0].expected_blocks == 30 + 1
    check_tree(made._tree)


def test_a_chat_becomes_one_run_of_blocks():
    made = scheduler(1)
    tokens: list[int] = []
    for turn in range(40):
        tokens = tokens + prompt(turn, 2)
        serve(made, str(turn), tokens, turn * 2.0)
    place(made, "last", tokens, 200.0)
    assert made.status(200.0).tree_nodes <= 3


def test_blocks_that_come_in_chunks_are_not_counted_twice():
    made = scheduler(1, capacity=150)
    place(made, "long", prompt(1, 100), 0.0)
    whole = store(prompt(1, 100))
    made.apply(0, [Store(whole.hashes[:50], None, whole.tokens[: 50 * BLOCK], BLOCK)], 0.1)
    status = made.status(0.1).replicas[0]
    assert status.resident_blocks + status.expected_blocks == 100


def test_a_burst_on_a_hybrid_model_stays_together():
    made = scheduler(2)
    names, tokens = hashes(prompt(9, 4)), prompt(9, 4)
    window = Store(
        names, None, tokens, BLOCK, group=1, attention=Attention.SLIDING_WINDOW, window_tokens=64
    )
    for replica in (0, 1):
        made.apply(replica, [store(prompt(9, 4)), window], 0.0)
    first, second = (place(made, name, prompt(1, 30, extra=1), 0.1) for name in "ab")
    assert (second.replica, second.cached_tokens) == (first.replica, 30 * BLOCK)


def test_a_replica_that_never_answers_gets_no_more():
    made = scheduler(2)
    answers = {0: 0, 1: 0}
    for number in range(40):
        placed = place(made, str(number), prompt(number, 40), number * 0.5)
        answers[placed.replica] += 1
        if placed.replica == 1:
            name = str(number)
            made.observe(1, [FirstToken(name, 0), Finished(name, 2)], number * 0.5 + 0.2)
    assert answers[0] <= 3


def test_outcomes_of_unknown_requests_are_ignored():
    made = scheduler(1)
    made.observe(0, [FirstToken("x", 3), Finished("y", 1), Finished("z", 1, aborted=True)], 0.0)
    made.observe(9, [FirstToken("x", 3)], 0.0)
    assert made.status(0.0).in_flight == 0


def test_events_of_an_unknown_replica_are_skipped():
    made = scheduler(1)
    assert made.apply(5, [store(prompt(1, 2)), Clear()], 0.0) == 2
    assert made.status(0.0).skipped_events == 2


def test_a_removed_replica_leaves_nothing_behind_and_another_may_come():
    made = scheduler(2)
    made.apply(1, [store(prompt(1, 20))], 0.0)
    place(made, "a", prompt(1, 25), 0.0)
    made.remove_replica(1)
    assert place(made, "b", prompt(1, 25), 0.1).replica == 0
    made.observe(1, [FirstToken("a", 0), Finished("a", 1)], 0.2)
    made.add_replica(7)
    assert made.replicas == (0, 7)
    made.apply(7, [store(prompt(2, 20))], 0.3)
    assert place(made, "c", prompt(2, 25), 0.4).replica == 7


def test_the_audit_holds_predictions_against_the_engine():
    made = scheduler(1)
    made.apply(0, [store(prompt(1, 20))], 0.0)
    place(made, "a", prompt(1, 20, extra=1))
    place(made, "b", prompt(1, 20, extra=2))
    made.observe(0, [FirstToken("a", 320), FirstToken("b", 300)], 0.1)
    one = made.status(0.1).replicas[0]
    assert (one.predicted_cached_tokens, one.actual_cached_tokens) == (640, 620)
    assert (one.audited_requests, one.exact_audits) == (2, 1)


def test_a_receipt_says_why_and_what_came_of_it():
    made = scheduler(2)
    made.apply(1, [store(prompt(1, 20))], 0.0)
    place(made, "internal", prompt(1, 20, extra=1), 1.0, external_id="client")
    made.observe(1, [FirstToken("internal", 320)], 1.5)
    made.observe(1, [Finished("internal", 7)], 2.0)
    (receipt,) = made.explain("client")
    assert receipt == made.explain("internal")[0]
    assert [one.hit_tokens for one in receipt.candidates] == [0, 320]
    assert receipt.candidates[1].prefill_seconds is not None
    assert (receipt.replica, receipt.branch, receipt.finish) == (1, "exploit", "finished")
    assert (receipt.predicted_cached_tokens, receipt.actual_cached_tokens) == (320, 320)
    assert (receipt.first_token_seconds, receipt.output_tokens) == (0.5, 7)


def test_receipts_are_bounded():
    made = scheduler(1, receipts=10)
    for number in range(30):
        serve(made, str(number), prompt(number, 1), float(number))
    assert made.status(30.0).receipts == 10
    assert made.explain("5") == []


def test_a_snapshot_carries_residency_to_another_life():
    made, again = scheduler(2), scheduler(2)
    made.apply(1, [store(prompt(1, 20)), store(prompt(1, 20), 19)], 0.0)
    made.apply(1, [Remove(hashes(prompt(1, 20))[3:4])], 0.0)
    captured = made.snapshot(1, 1000)
    assert captured is not None
    again.restore(1, captured.encode())
    assert place(again, "a", prompt(1, 20, extra=1)).cached_tokens == 3 * BLOCK
    again.apply(1, [Remove(hashes(prompt(1, 20))[19:])], 0.0)
    assert again.status(0.0).replicas[1].resident_blocks == 19


def test_a_snapshot_is_bounded():
    made = scheduler(1)
    made.apply(0, [store(prompt(1, 20))], 0.0)
    assert made.snapshot(0, 19) is None
    assert made.snapshot(5, 19) is None


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"\x96\x01\xc4\x00\x10\x90\x90\x90"])
def test_a_damaged_snapshot_is_refused_and_changes_nothing(damage):
    made = scheduler(1)
    made.apply(0, [store(prompt(1, 20))], 0.0)
    with pytest.raises(ValueError, match="snapshot"):
        made.restore(0, damage)
    assert place(made, "a", prompt(1, 20, extra=1)).cached_tokens == 320


def test_a_snapshot_of_another_seed_is_refused():
    made, other = scheduler(1), Scheduler(BLOCK, seed=b"another")
    other.add_replica(0)
    captured = other.snapshot(0, 10)
    assert captured is not None
    with pytest.raises(ValueError, match="seed"):
        made.restore(0, captured.encode())


def test_room_is_made_where_it_costs_least():
    """M: both caches are full; one holds what is used, the other what is not."""
    made = scheduler(2, capacity=40)
    made.apply(0, [store(prompt(1, 40))], 0.0)
    made.apply(1, [store(prompt(2, 40))], 0.0)
    for number in range(8):
        placed = place(made, str(number), prompt(1, 40, extra=1), 1.0 + number)
        made.observe(placed.replica, [FirstToken(str(number), 640)], 1.1 + number)
        made.observe(placed.replica, [Finished(str(number), 1)], 1.2 + number)
    placed = place(made, "new", prompt(3, 40), 20.0)
    (receipt,) = made.explain("new")
    assert placed.replica == 1
    kept, let_go = receipt.candidates
    assert kept.eviction_seconds is not None
    assert kept.eviction_seconds > 0
    assert let_go.eviction_seconds == 0


def test_what_is_booked_after_the_answer_is_booked_before_anything_else():
    """Two that are told the same, one of them to settle at once: they answer alike."""
    rng = random.Random(7)
    prompt_now, late = scheduler(3, capacity=60), scheduler(3, capacity=60)
    running: list[tuple[int, str]] = []
    for number in range(400):
        now = 0.05 * number
        tokens = prompt(rng.randrange(6), rng.randrange(1, 30)) + prompt(100 + number, 3)
        asked = Request(f"r{number}", prompt_now.hasher.prompt_keys(tokens), len(tokens))
        answer = prompt_now.place(asked, now)
        prompt_now.settle()
        assert late.place(asked, now) == answer
        running.append((answer.replica, asked.request_id))
        for _ in range(rng.randrange(3)):
            if not running:
                break
            replica, name = running.pop(rng.randrange(len(running)))
            said = rng.choice(
                [
                    [FirstToken(name, 0), Finished(name, 5)],
                    [Finished(name, 0, aborted=True)],
                ]
            )
            for one in (prompt_now, late):
                one.observe(replica, said, now)
        if rng.random() < 0.5:
            stored = [store(tokens)]
            for one in (prompt_now, late):
                one.apply(answer.replica, stored, now)
    assert prompt_now.status(30.0) == late.status(30.0)
    assert len(running) == late.status(30.0).in_flight > 3


def test_a_placement_is_seen_whatever_is_asked_next():
    for look in (
        lambda made: made.status(0.0).in_flight,
        lambda made: len(made.explain("r")),
        lambda made: made.settle() or made.settle() or made.status(0.0).placements,
    ):
        made = scheduler(2)
        made.place(Request("r", b"", 10), 0.0)
        assert look(made) == 1


def test_a_replica_that_goes_takes_what_was_just_placed_with_it():
    made = scheduler(2)
    replica = made.place(Request("r", b"", 10), 0.0).replica
    made.remove_replica(replica)
    assert made.status(0.0).in_flight == 0


@pytest.mark.parametrize("window", [0.0, 0.99, -180.0, 86_401.0, float("inf"), float("nan")])
def test_a_window_out_of_bounds_is_refused_by_name(window):
    with pytest.raises(ValueError, match=r"window_seconds takes 1 to 86400 seconds, got .*default"):
        Scheduler(BLOCK, window_seconds=window)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
@pytest.mark.parametrize("window", [1.0, 180.0, 86_400.0])
@pytest.mark.parametrize("start", [-5.0, 1.0e7, 1.7e9, 2.0**22 * 86_400.0 - 1.0, 9.9e14])
def test_requests_are_placed_alike_whatever_the_clock_says(
    implementation, window, start, monkeypatch
):
    monkeypatch.setattr(prefix_tree, "fastest_walk", implementation.walk)
    monkeypatch.setattr(prefix_tree, "fastest_expect", implementation.expect)

    def life(start: float) -> list[tuple[object, int]]:
        made, places = scheduler(3, capacity=60, window_seconds=window), []
        for number in range(60):
            tokens = prompt(number % 7, 20 + number % 5, extra=3)
            placed = serve(made, str(number), tokens, start + number / 8, seconds=1 / 16)
            places.append((placed.replica, placed.cached_tokens))
        check_tree(made._tree)
        made.observe(0, [], start + 100.0)
        assert sum(one.expected_blocks for one in made.status(start + 100.0).replicas) == 0
        return places

    assert life(start) == life(0.0)


TIMES = {
    "place": lambda made, now: place(made, "b", prompt(2, 30), now),
    "dispatched": lambda made, now: made.dispatched(request(made, "a", prompt(1, 30)), 1, now),
    "observe": lambda made, now: made.observe(0, [FirstToken("a", 0), Finished("a", 1)], now),
    "report": lambda made, now: made.report(0, LoadReport(20.0, 0, 0), now),
    "status": lambda made, now: made.status(now),
}


@pytest.mark.parametrize("now", [float("nan"), float("inf"), float("-inf"), 1e15])
@pytest.mark.parametrize("method", TIMES)
def test_a_time_that_is_no_number_is_refused_and_changes_nothing(method, now):
    made = scheduler(2, capacity=100)
    place(made, "a", prompt(1, 30), 1.0, fixed_replica=0)
    before, receipts = made.status(2.0), made.explain("a")

    with pytest.raises(ValueError, match="now takes a finite number of seconds"):
        TIMES[method](made, now)

    assert (made.status(2.0), made.explain("a")) == (before, receipts)
    check_tree(made._tree)


def _hit_of_another_engine(*events: Store) -> tuple[int, Trust]:
    """An engine with a window group ran here before; the hit on what the next one stores."""
    made, tokens = scheduler(1), prompt(1, 4, 1)
    window = {"group": 1, "attention": Attention.SLIDING_WINDOW, "window_tokens": 17}
    made.apply(0, [store(tokens), store(tokens, **window)], 0.0)
    made.clear_residency(0)
    made.apply(0, events, 1.0)
    return place(made, "next", tokens, 9.0).cached_tokens, made.status(9.0).replicas[0].trust


def test_groups_of_the_engine_before_are_not_asked_for():
    assert _hit_of_another_engine(store(prompt(1, 4))) == (4 * BLOCK, Trust.EXACT)


def test_the_main_group_may_be_another_once_the_engine_is():
    tokens = prompt(1, 4)
    window = {"group": 0, "attention": Attention.SLIDING_WINDOW, "window_tokens": 17}
    events = store(tokens, **window), store(tokens, group=1)
    assert _hit_of_another_engine(*events) == (4 * BLOCK, Trust.EXACT)


def test_a_snapshot_of_another_engine_brings_its_own_groups():
    tokens = prompt(1, 4, 1)
    window = {"group": 1, "attention": Attention.SLIDING_WINDOW, "window_tokens": 17}
    made = scheduler(2)
    made.apply(0, [store(tokens)], 0.0)
    made.apply(1, [store(tokens), store(tokens, **window)], 0.0)
    taken = made.snapshot(0, 100)
    assert taken is not None
    made.restore(1, taken.encode())
    assert place(made, "next", tokens, 1.0, fixed_replica=1).cached_tokens == 4 * BLOCK
