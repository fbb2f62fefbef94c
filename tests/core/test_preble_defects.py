"""What the code of 2024 got wrong, each as a test by name."""

from __future__ import annotations

from builders import BLOCK, hashes, place, prompt, scheduler, serve, store

from preble_plugin.core import Finished, FirstToken, Remove
from preble_plugin.core.tree_check import check_tree


def test_1_an_exact_repeat_of_a_prompt_exploits():
    made = scheduler(4)
    first = serve(made, "a", prompt(1, 40), 0.0)
    again = place(made, "b", prompt(1, 40), 1.0)
    assert (again.replica, again.branch) == (first.replica, "exploit")


def test_2_the_choice_is_a_replica_and_not_a_place_among_the_candidates():
    made = scheduler(4)
    for replica in (2, 3):
        made.apply(replica, [store(prompt(1, 40))], 0.0)
    chosen = set()
    for number in range(8):
        chosen.add(serve(made, str(number), prompt(1, 40, extra=number), number * 1.0).replica)
    assert chosen <= {2, 3}


def test_3_own_prefill_is_priced_by_what_misses_on_each_replica():
    made = scheduler(2)
    made.apply(0, [store(prompt(1, 10))], 0.0)
    made.apply(1, [store(prompt(1, 20))], 0.0)
    place(made, "a", prompt(1, 50))
    (receipt,) = made.explain("a")
    by_replica = [one.prefill_seconds for one in receipt.candidates]
    assert receipt.branch == "explore"
    assert by_replica[1] < by_replica[0]


def test_3_observed_output_lengths_change_the_load():
    short, long = scheduler(1), scheduler(1)
    for made, length in ((short, 2), (long, 400)):
        for number in range(20):
            name = str(number)
            place(made, name, prompt(number, 2), float(number))
            made.observe(0, [FirstToken(name, 0)], number + 0.1)
            made.observe(0, [Finished(name, length)], number + 0.2)
        place(made, "next", prompt(99, 2), 30.0, max_output_tokens=4000)
    loads = [made.status(30.0).replicas[0].queued_decode_seconds for made in (short, long)]
    assert loads[0] * 3 < loads[1]


def test_4_a_failed_request_leaves_placement_working_and_no_reference_behind():
    made = scheduler(2)
    for number in range(50):
        placed = place(made, str(number), prompt(number, 10), number * 0.1)
        made.observe(placed.replica, [Finished(str(number), 0, aborted=True)], number * 0.1)
    status = made.status(5.0)
    assert (status.in_flight, status.tree_blocks) == (0, 0)
    assert all(one.queued_prefill_seconds == 0 for one in status.replicas)


def test_5_a_request_that_outlives_the_window_is_nothing_special():
    made = scheduler(2, window_seconds=10.0)
    placed = place(made, "old", prompt(1, 10), 0.0)
    for number in range(100):
        serve(made, str(number), prompt(2 + number % 3, 10), number * 1.0)
    made.observe(placed.replica, [FirstToken("old", 0)], 200.0)
    made.observe(placed.replica, [Finished("old", 5)], 500.0)
    assert made.status(500.0).in_flight == 0


def test_6_a_chat_of_1200_turns_needs_no_recursion():
    made = scheduler(1)
    tokens = prompt(1, 1)
    for turn in range(1200):
        tokens = tokens + prompt(turn, 1)
        serve(made, f"turn {turn}", tokens, turn * 2.0)
    assert place(made, "last", [*tokens, 1], 7000.0).cached_tokens == 1201 * BLOCK
    check_tree(made._tree)


def test_7_evictions_are_exact():
    made = scheduler(1)
    made.apply(0, [store(prompt(1, 30)), Remove(hashes(prompt(1, 30))[12:])], 0.0)
    assert place(made, "a", prompt(1, 30)).cached_tokens == 12 * BLOCK


def test_8_history_leaves_nothing_behind():
    made = scheduler(2, receipts=100)
    sizes = []
    for number in range(1200):
        tokens = prompt(number, 8)
        placed = serve(made, str(number), tokens, number * 2.0)
        made.apply(placed.replica, [Remove(hashes(tokens))], number * 2.0 + 1.5)
        status = made.status(number * 2.0 + 1.6)
        sizes.append(status.tree_nodes)
    assert max(sizes[100:]) <= max(sizes[:100])
    assert made.status(5000.0).tree_blocks < 100


def test_9_a_hot_prefix_spreads_before_its_queue_is_long():
    """90 % of the traffic on one prefix: when its holder is far behind, an idle
    replica computes it once more."""
    made = scheduler(4)
    serve(made, "first", prompt(1, 60), 0.0)
    used = set()
    for number in range(200):
        used.add(place(made, str(number), prompt(1, 60, extra=8), 1.0 + number * 0.001).replica)
    assert len(used) == 4
