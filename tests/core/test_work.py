"""How much is done, counted in calls and not in time: what must not grow does not."""

from __future__ import annotations

import gc
import random
import sys
from collections import Counter

import pytest
from builders import BLOCK, place, prompt, scheduler, serve, store
from counted import calls

from preble_plugin.core import Finished, FirstToken, Remove, Request, Scheduler, Store, Trust
from preble_plugin.core.block_keys import KEY_BYTES
from preble_plugin.core.tree_check import check_merged, check_tree
from preble_plugin.core.tree_shape import LONGEST_EDGE
from preble_plugin.core.usage import first_use

DOCUMENT_BLOCKS = 112


def busy(
    replicas: int = 8,
    documents: int = 16,
    past: int = 0,
    blocks: int = DOCUMENT_BLOCKS,
    **settings: object,
) -> Scheduler:
    """Documents, each on one replica; a request in flight on each; so many past ones."""
    made = scheduler(replicas, capacity=100_000, **settings)
    for name in range(documents):
        made.apply(name % replicas, [store(prompt(name, blocks))], 0.0)
    for number in range(past):
        serve(made, f"past {number}", prompt(number % documents, 100 + number % 12), 0.1 * number)
    now = 0.1 * past + 10.0
    for replica in range(replicas):
        name = f"busy {replica}"
        place(made, name, prompt(1000 + replica, 20), now, fixed_replica=replica)
    return made


def placing(made: Scheduler, booked: bool = True, blocks: int = DOCUMENT_BLOCKS) -> Counter[str]:
    """The calls of placing a question about a document, on a scheduler that has placed
    one before; without its booking, or with it."""
    now = 10_000.0
    for number in range(2):
        tokens = prompt(3, blocks) + prompt(2000 + number, 16)
        request = Request(f"asked {number}", made.hasher.prompt_keys(tokens), len(tokens))
        found = calls(lambda request=request: made.place(request, now))
        settled = calls(made.settle)
    return found + settled if booked else found


def test_a_longer_document_costs_no_more():
    assert placing(busy(blocks=1120), blocks=1120) == placing(busy())


def test_the_answer_does_not_wait_for_the_booking():
    made = busy()
    assert 4 * placing(made, booked=False).total() <= 3 * placing(made).total()


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


def test_a_placement_looks_at_the_nodes_of_the_path_and_no_others():
    made = busy(documents=64)
    for number in range(50):
        leaves = prompt(3, 2 * number + 1) + prompt(3000 + number, 1)
        place(made, str(number), leaves, 20.0, fixed_replica=3)
    made.settle()
    tokens = prompt(3, DOCUMENT_BLOCKS)
    path = made._tree.match(made.hasher.prompt_keys(tokens), made._columns).path
    assert len(path) == 51
    for node in [made._tree.root, *path]:
        for first, child in node.children.items():
            if child not in path:
                # What looks at it fails.
                node.children[first] = object()  # type: ignore[assignment]
    asked = place(made, "asked", tokens, 20.0, fixed_replica=3)
    assert asked.cached_tokens == len(tokens) - BLOCK
    made.settle()


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


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_sequence_that_grows_costs_the_same_at_any_length(replicas: int):
    """Calls, and the bytes that each of them may copy: those of a node."""
    made = Scheduler(1, seed=b"seed" * 4)
    for replica in range(replicas):
        made.add_replica(replica)

    def grow(block: int) -> None:
        for replica in range(replicas):
            made.apply(replica, [Store([block], block - 1 if block else None, [block], 1)], 0.0)

    found = {}
    for block in range(2 * LONGEST_EDGE + 500):
        if block % 500 == 400:
            found[block] = calls(lambda block=block: grow(block)).total()
            assert max(node.size for node in made._tree.walk()) <= LONGEST_EDGE
            assert made.status(0.0).tree_nodes == 1 + block // LONGEST_EDGE
        else:
            grow(block)
    # One of a node's holders comes to hold what another has added: it is merged.
    assert max(found.values()) - min(found.values()) <= 6, found
    assert max(found.values()) <= 100 * replicas


# -- history -----------------------------------------------------------------------------

LONG_BLOCKS = 8_000


def cached(*held: int) -> tuple[Scheduler, bytes]:
    """Replicas that hold so many blocks of one long prompt; its keys."""
    made = Scheduler(1, seed=b"seed" * 4)
    tokens = list(range(LONG_BLOCKS))
    for replica, blocks in enumerate(held):
        made.add_replica(replica, capacity_blocks=100_000)
        made.set_trust(replica, Trust.EXACT)
        made.apply(replica, [Store(tokens[:blocks], None, tokens[:blocks], 1)], 0.0)
    return made, made.hasher.prompt_keys(tokens)


def leave_at_random(made: Scheduler, keys: bytes, requests: int) -> None:
    """Requests that leave the long prompt anywhere and end; some of them overlap."""
    choose = random.Random(1)
    replicas, started = list(made.replicas), []
    for number in range(requests):
        now = 1.0 + 0.01 * number
        cut = choose.randrange(1, LONG_BLOCKS)
        asked = keys[: cut * KEY_BYTES] + choose.randbytes(2 * KEY_BYTES)
        replica = choose.choice(replicas)
        made.place(Request(f"left {number}", asked, cut + 3, fixed_replica=replica), now)
        started.append((replica, f"left {number}"))
        if len(started) > 4:
            replica, ended = started.pop(choose.randrange(4))
            made.observe(replica, [Finished(ended, 1)], now)
    for replica, ended in started:
        made.observe(replica, [Finished(ended, 1)], 0.01 * requests + 2.0)
    made.observe(0, [], 0.01 * requests + 10.0)


def asking(made: Scheduler, keys: bytes) -> int:
    """Calls of placing the long prompt itself once more."""
    for number in range(2):
        asked = Request(f"asked {number}", keys, LONG_BLOCKS + 1)
        placed = calls(lambda asked=asked: made.place(asked, 10_000.0))
        settled = calls(made.settle)
    return placed.total() + settled.total()


@pytest.mark.parametrize("held", [(8000,), (8000, 3000), (8000, 3000, 5500)])
def test_requests_that_left_a_long_prompt_anywhere_leave_nothing_to_pay_for(held):
    (few, keys), (many, _) = cached(*held), cached(*held)
    nodes = many.status(0.0).tree_nodes
    for made, requests in ((few, 20), (many, 1500)):
        leave_at_random(made, keys, requests)
        check_tree(made._tree)
        check_merged(made._tree)
        assert made.status(0.0).tree_blocks == LONG_BLOCKS
    # Where blocks are held alike, no two nodes in a row fit into one.
    assert many.status(0.0).tree_nodes <= nodes + len(held)
    assert asking(many, keys) <= asking(few, keys) + 6 * len(held)


@pytest.mark.parametrize("held", [(8000,), (8000, 3000)])
def test_requests_in_flight_cost_what_is_parted_for_them_alone(held):
    made, keys = cached(*held)
    before = made.status(0.0).tree_nodes
    leave_at_random(made, keys, 500)
    for number in range(10):
        asked = keys[: (700 * number + 50) * KEY_BYTES]
        made.place(Request(str(number), asked, 10_000, fixed_replica=0), 20.0)
    assert made.status(20.0).tree_nodes <= before + len(held) + 10


@pytest.mark.parametrize("policy", ["e2", "lmetric"])
@pytest.mark.parametrize("receipts", [0, 100])
def test_a_request_that_has_ended_leaves_no_object_behind(policy: str, receipts: int):
    made = busy(policy=policy, receipts=receipts)
    tokens = prompt(3, DOCUMENT_BLOCKS)

    def life(number: int) -> None:
        name = f"again {number}"
        now = 20.0 + 2.0 * number
        placed = place(made, name, tokens, now)
        made.observe(placed.replica, [FirstToken(name, 0), Finished(name, 4)], now + 0.1)

    left = []
    for span in range(3):
        for number in range(600 * span, 600 * span + 600):
            life(number)
        gc.collect()
        left.append(sys.getallocatedblocks())
    assert left[2] - left[1] < 100


def test_receipts_take_as_many_objects_for_64_replicas_as_for_8():
    left = []
    for replicas in (8, 64):
        made = busy(replicas, receipts=2000)
        for span in range(2):
            for number in range(600 * span, 600 * span + 600):
                name, now = f"again {number}", 20.0 + 2.0 * number
                placed = place(made, name, prompt(3, DOCUMENT_BLOCKS), now)
                made.observe(placed.replica, [Finished(name, 4)], now + 0.1)
            gc.collect()
            left.append(sys.getallocatedblocks())
    few, many = left[1] - left[0], left[3] - left[2]
    assert many < 1.25 * few < 1.25 * 600 * 15
