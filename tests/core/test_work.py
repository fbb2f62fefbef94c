"""How much is done, counted in calls and not in time: what must not grow does not."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable

import pytest
from builders import BLOCK, hashes, place, prompt, scheduler, serve, store

from preble_plugin.core import Finished, Remove, Request, Scheduler, Store, Trust
from preble_plugin.core.usage import first_use

DOCUMENT_BLOCKS = 112
PLACE_CALLS = 131
"""Calls of any function, of ours or built in, in one placement by the plainest way: one
holder among busy replicas. By Python alone; the compiled loops make fewer."""
ANSWER_CALLS = 86
"""Those of them until the answer is there."""


def calls(work: Callable[[], object]) -> Counter[str]:
    """Functions that `work` calls, by name."""
    found: Counter[str] = Counter()

    def note(frame: object, event: str, argument: object) -> None:
        if event == "call":
            found[frame.f_code.co_name] += 1  # type: ignore[attr-defined]
        elif event == "c_call":
            found[argument.__name__] += 1  # type: ignore[attr-defined]

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    found.pop("setprofile", None)
    return found


def busy(replicas: int = 8, documents: int = 16, past: int = 0) -> Scheduler:
    """Documents, each on one replica; a request in flight on each; so many past ones."""
    made = scheduler(replicas, capacity=100_000)
    for name in range(documents):
        made.apply(name % replicas, [store(prompt(name, DOCUMENT_BLOCKS))], 0.0)
    for number in range(past):
        serve(made, f"past {number}", prompt(number % documents, 100 + number % 12), 0.1 * number)
    now = 0.1 * past + 10.0
    for replica in range(replicas):
        name = f"busy {replica}"
        place(made, name, prompt(1000 + replica, 20), now, fixed_replica=replica)
    return made


def placing(made: Scheduler, name: int = 3, booked: bool = True) -> Counter[str]:
    """The calls of placing a question about a document, on a scheduler that has placed
    one before; without its booking, or with it."""
    now = 10_000.0
    for number in range(2):
        tokens = prompt(name, DOCUMENT_BLOCKS) + prompt(2000 + number, 16)
        request = Request(f"asked {number}", made.hasher.prompt_keys(tokens), len(tokens))
        found = calls(lambda request=request: made.place(request, now))
        settled = calls(made.settle)
    return found + settled if booked else found


def test_a_placement_makes_few_calls():
    found = placing(busy())
    assert found.total() <= PLACE_CALLS, found.most_common()


def test_a_third_of_them_comes_after_the_answer():
    found = placing(busy(), booked=False)
    assert found.total() <= ANSWER_CALLS, found.most_common()


def test_a_placement_hashes_nothing_and_hashing_a_prompt_is_one_pass():
    made, tokens = busy(), prompt(3, 128)
    assert not {"keys", "numpy_keys", "stored_keys"} & set(placing(made))
    found = calls(lambda: made.hasher.prompt_keys(tokens))
    assert found["keys"] + found["numpy_keys"] == 1
    assert found.total() <= 20


@pytest.mark.parametrize("documents", [160, 1600])
def test_a_larger_tree_costs_no_more(documents: int):
    assert placing(busy(documents=documents)) == placing(busy())


def test_history_costs_no_more():
    assert placing(busy(past=1500)).total() <= placing(busy(past=20)).total() + 15


def test_more_replicas_cost_little_more():
    few, many = placing(busy(8)).total(), placing(busy(64)).total()
    assert many <= few + 64


def test_a_walk_looks_at_the_nodes_of_the_path_and_no_others():
    made = busy(documents=64)
    tree = made._tree
    for number in range(50):
        place(made, str(number), prompt(3, 2 * number + 1) + prompt(3000 + number, 1), 20.0)
    keys = made.hasher.prompt_keys(prompt(3, DOCUMENT_BLOCKS))
    path = tree.match(keys, made._columns).path
    assert tree.nodes > 2 * len(path) > 80
    assert [node.depth + node.size for node in path][-1] == DOCUMENT_BLOCKS


def test_ending_what_was_stored_does_not_walk_the_path():
    made = scheduler(1, capacity=10_000)
    tree = made._tree
    for turn in range(1, 60):
        made.apply(0, [store(prompt(5, turn), turn - 1)], 0.0)
        made.apply(0, [store(prompt(5, turn) + prompt(4000 + turn, 1), turn)], 0.0)
    tokens = prompt(5, 59)
    match = tree.match(made.hasher.prompt_keys(tokens), 1)
    assert len(match.path) > 50
    expected = tree.expect(match.path, 0, first_use(0.0, 180.0))
    assert calls(lambda: tree.unexpect(expected, 0)).total() <= 12


@pytest.mark.parametrize("backwards", [False, True])
def test_pages_in_a_row_cost_a_few_calls_together(backwards: bool):
    made = Scheduler(1, seed=b"seed" * 4)
    made.add_replica(0)
    made.set_trust(0, Trust.EXACT)
    tokens = list(range(500))
    names = [7919 * (one + 1) for one in tokens]
    stored = Store(names, None, tokens, 1)
    removed = Remove(names[::-1] if backwards else names)
    # One call for each hash that a dict forgets, and little else.
    assert calls(lambda: made.apply(0, [stored], 0.0)).total() <= 60
    assert calls(lambda: made.apply(0, [removed], 0.0)).total() <= 60
    assert made.status(0.0).tree_blocks == 0


def test_a_sequence_that_grows_costs_the_same_at_any_length():
    made, tokens = scheduler(1), prompt(6, 600)
    found = []
    names = hashes(tokens)
    for block in range(600):
        parent = names[block - 1] if block else None
        piece = tokens[block * BLOCK : (block + 1) * BLOCK]
        event = Store([names[block]], parent, piece, BLOCK)
        found.append(calls(lambda event=event: made.apply(0, [event], 0.0)).total())
    assert max(found[1:]) <= 60
    assert made.status(0.0).tree_nodes == 1


def test_a_request_that_has_ended_leaves_no_object_behind():
    made = busy()
    tokens = prompt(3, DOCUMENT_BLOCKS)

    def life(number: int) -> None:
        name = f"again {number}"
        now = 20.0 + 2.0 * number
        place(made, name, tokens, now)
        made.observe(3, [Finished(name, 4)], now + 0.1)

    made._receipts.capacity = 0
    left = []
    for span in range(3):
        for number in range(600 * span, 600 * span + 600):
            life(number)
        gc.collect()
        left.append(sys.getallocatedblocks())
    assert left[2] - left[1] < 100
