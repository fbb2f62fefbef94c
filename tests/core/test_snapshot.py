"""A residency as bytes and back: nothing is lost, nothing costs more than it holds, and
no bytes are worse than a `ValueError`."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from builders import BLOCK, hashes, prompt, scheduler, store
from counted import calls

from preble_plugin.core import Attention, BlockHasher, Remove, Store, Trust
from preble_plugin.core.hits import Hit, usable
from preble_plugin.core.pool import Pool
from preble_plugin.core.prefix_tree import PrefixTree
from preble_plugin.core.residency import Residency
from preble_plugin.core.snapshot import capture, restore
from preble_plugin.core.tree_check import check_merged, check_residency, check_tree
from preble_plugin.core.tree_shape import LONGEST_EDGE


class Cache:
    """Replicas of one tree. What is applied is applied to the first."""

    def __init__(
        self, *events: object, others: int = 0, max_blocks: int = 1 << 30, size: int = BLOCK
    ) -> None:
        self.tree = PrefixTree(max_blocks)
        self.hasher = BlockHasher(size, b"seed")
        self.replicas = [
            Residency(self.tree, self.hasher, Pool(self.tree, 1000)) for _ in range(1 + others)
        ]
        self.residency = self.replicas[0]
        for event in events:
            self.residency.apply(event)  # type: ignore[arg-type]

    def snapshot(self) -> bytes:
        return capture(self.tree, self.residency).encode()

    def restore(self, snapshot: bytes) -> None:
        restore(self.tree, self.residency, snapshot)
        self.check()

    def check(self) -> None:
        check_tree(self.tree)
        check_merged(self.tree)
        for residency in self.replicas:
            check_residency(self.tree, residency)

    def hit(self, tokens: list[int]) -> Hit:
        match = self.tree.match(self.hasher.prompt_keys(tokens), 1 << self.residency.column)
        level = match.levels[-1][1] if match.levels else 0
        return usable(self.residency, match, level, len(tokens) // self.hasher.block_size)

    def holding(self) -> list[object]:
        """All that a snapshot keeps of a residency, whatever the tree is like."""
        found: list[object] = []
        for layer in self.residency.all_layers:
            names = {}
            for one in layer.index:
                node, depth = layer.index.find(one) or (self.tree.root, 0)
                names[one] = depth, self.tree.holds(layer.column, node, depth)
            found.append((layer.group, layer.medium, layer.attention, layer.window_blocks))
            found.append((names, dict(layer.copies.items()), dict(layer.unplaced.items())))
        return found


DOCUMENT = prompt(1, 6)
AGAIN = Store([101, 102, 103, 104, 105, 106], None, DOCUMENT, BLOCK)
"""The same tokens under other hashes."""
BRANCH = prompt(1, 3) + prompt(2, 3)


def window(blocks: list[int], tokens: list[int]) -> Store:
    named = [hashes(tokens)[block] for block in blocks]
    kind = Attention.SLIDING_WINDOW
    return Store(named, None, tokens, BLOCK, group=1, attention=kind, window_tokens=2 * BLOCK + 1)


CACHES: dict[str, list[object]] = {
    "one prompt": [store(DOCUMENT)],
    "a branch": [store(DOCUMENT), store(BRANCH, 3)],
    "holes": [store(DOCUMENT), Remove([hashes(DOCUMENT)[number] for number in (0, 3)])],
    "copies": [store(DOCUMENT), store(DOCUMENT, 4), store(DOCUMENT, 5)],
    "several hashes": [store(DOCUMENT), AGAIN, Remove(hashes(DOCUMENT)[2:4]), Remove([106])],
    "several hashes and copies": [store(DOCUMENT), AGAIN, AGAIN, store(DOCUMENT, 2)],
    "media": [store(DOCUMENT), store(BRANCH, medium="CPU"), Remove(hashes(DOCUMENT)[4:])],
    "a group": [store(DOCUMENT), window([2, 3], DOCUMENT)],
    "unplaced": [store(DOCUMENT), window([1, 2], BRANCH), window([4, 4, 5], BRANCH)],
    "another main group": [store(DOCUMENT, group=3), window([2, 3], DOCUMENT)],
    "byte hashes": [Store([b"1", b"2"], None, DOCUMENT[: 2 * BLOCK], BLOCK)],
    "tenants": [store(DOCUMENT, salt="one"), store(DOCUMENT, salt="two")],
    "nothing": [],
}


def overlapping() -> Cache:
    """A tree in which other replicas hold parts of the same prompts."""
    made = Cache(others=3)
    for other, tokens in enumerate((DOCUMENT[: 2 * BLOCK], BRANCH, prompt(1, 1) + prompt(9, 9)), 1):
        made.replicas[other].apply(store(tokens))
    made.replicas[2].apply(Remove([hashes(BRANCH)[1]]))
    return made


@pytest.mark.parametrize("name", CACHES)
def test_a_residency_goes_through_a_snapshot_into_another_tree(name: str):
    cache, other = Cache(*CACHES[name]), overlapping()
    others = [residency.copies for residency in other.replicas[1:]]
    other.restore(cache.snapshot())
    assert other.holding() == cache.holding()
    assert [residency.copies for residency in other.replicas[1:]] == others
    assert other.residency.complete
    for tokens in (DOCUMENT, BRANCH, DOCUMENT[: 4 * BLOCK]):
        assert other.hit(tokens) == cache.hit(tokens)


@pytest.mark.parametrize("name", CACHES)
def test_what_went_through_a_snapshot_is_removed_like_the_original(name: str):
    cache, other = Cache(*CACHES[name]), Cache()
    other.restore(cache.snapshot())
    for layer in cache.residency.all_layers:
        named = list(layer.index)
        for times in (1, 2, 3, 4):
            for one in named:
                remove = Remove([one], layer.group, layer.medium)
                assert other.residency.apply(remove) == cache.residency.apply(remove)
            other.check()
            assert [one.copies for one in (other.residency, cache.residency)] == [
                cache.residency.copies
            ] * 2, times
    assert other.tree.blocks == cache.tree.blocks == 0


@pytest.mark.parametrize("name", CACHES)
def test_a_snapshot_replaces_what_was_there(name: str):
    cache, other = Cache(*CACHES[name]), Cache(store(prompt(7, 5)), store(DOCUMENT), AGAIN)
    other.restore(cache.snapshot())
    assert other.hit(prompt(7, 5)) == (0, ())
    assert other.residency.copies == cache.residency.copies


def test_a_capture_is_of_its_moment():
    cache = Cache(store(DOCUMENT))
    taken, before = capture(cache.tree, cache.residency), cache.holding()
    cache.residency.apply(Remove(hashes(DOCUMENT)[2:]))
    cache.residency.apply(store(BRANCH, 3))
    other = Cache()
    other.restore(taken.encode())
    assert other.holding() == before


# -- a full tree -------------------------------------------------------------------------


def test_what_does_not_fit_into_the_tree_is_missing():
    cache, other = Cache(store(DOCUMENT), store(prompt(2, 6)), AGAIN), Cache(max_blocks=8)
    other.restore(cache.snapshot())
    assert (other.hit(DOCUMENT)[0], other.hit(prompt(2, 6))[0]) == (6, 2)
    assert (other.residency.missing_blocks, other.residency.complete) == (4, False)
    other.residency.apply(Remove(hashes(prompt(2, 6))[2:]))
    assert other.residency.complete


def test_a_snapshot_fits_into_a_full_tree_that_has_its_blocks():
    cache, other = Cache(store(DOCUMENT), store(BRANCH)), Cache(others=1, max_blocks=9)
    for tokens in (DOCUMENT, BRANCH):
        other.replicas[1].apply(store(tokens))
    other.restore(cache.snapshot())
    assert (other.hit(DOCUMENT)[0], other.hit(BRANCH)[0]) == (6, 6)
    assert other.residency.complete


def test_what_follows_blocks_that_do_not_fit_is_missing_whatever_the_tree_has():
    """The tree's only block after the first looks like one that comes later."""
    cache, other = Cache(store(DOCUMENT), store(BRANCH, 3)), Cache(others=1, max_blocks=4)
    other.replicas[1].apply(store(DOCUMENT[:BLOCK] + BRANCH[3 * BLOCK :]))
    other.restore(cache.snapshot())
    assert (other.residency.copies, other.residency.missing_blocks) == (1, 8)


def test_a_replica_whose_snapshot_does_not_fit_is_not_exact():
    big, small = scheduler(1), scheduler(1, max_tree_blocks=4)
    big.apply(0, [store(DOCUMENT)], 0.0)
    taken = big.snapshot(0, 100)
    assert taken is not None
    small.restore(0, taken.encode())
    (status,) = small.status(0.0).replicas
    assert (status.trust, status.resident_blocks, status.missing_blocks) == (Trust.REBUILDING, 4, 2)


@pytest.mark.parametrize(
    ("max_blocks", "event"),
    [(100, Store([1], None, DOCUMENT[:8], 8)), (4, store(DOCUMENT))],
    ids=["skipped", "full"],
)
def test_a_residency_that_is_not_complete_gives_no_snapshot(max_blocks: int, event: Store):
    made = scheduler(1, max_tree_blocks=max_blocks)
    made.apply(0, [event], 0.0)
    assert made.snapshot(0, 100) is None
    made.apply(0, [Remove(event.hashes)], 0.0)
    assert made.snapshot(0, 100) is not None


def test_a_residency_with_stores_that_wait_gives_no_snapshot():
    made = scheduler(1)
    made.apply(0, [store(DOCUMENT, 2)], 0.0)
    assert made.snapshot(0, 100) is None
    made.apply(0, [store(DOCUMENT[: 2 * BLOCK])], 0.0)
    assert made.snapshot(0, 100) is not None


# -- work --------------------------------------------------------------------------------


def questions(blocks: int, count: int, length: int = 20) -> Cache:
    """One long prompt, and many short questions about it, in blocks of one token."""
    choose = random.Random(1)
    made = Cache(size=1)
    named = list(range(1, blocks + 1))
    made.residency.apply(Store(named, None, named, 1))
    for number in range(count):
        first = 1_000_000 + length * number
        about = choose.randrange(1, blocks + 1)
        tokens = [first, *range(length - 1)]
        made.residency.apply(Store(list(range(first, first + length)), about, tokens, 1))
    return made


def work(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int]:
    """Calls to restore a snapshot, blocks that are held by key, and blocks that are held
    by place or released."""
    keys = places = 0
    hold, hold_run, release = PrefixTree.hold, PrefixTree.hold_run, PrefixTree.release

    def counted_hold(tree, column, node, depth, run):
        nonlocal keys
        keys += len(run) // 8
        return hold(tree, column, node, depth, run)

    def counted_run(tree, column, node, depth, count):
        nonlocal places
        places += count
        return hold_run(tree, column, node, depth, count)

    def counted_release(tree, column, node, depth, count=1):
        nonlocal places
        places += count
        return release(tree, column, node, depth, count)

    monkeypatch.setattr(PrefixTree, "hold", counted_hold)
    monkeypatch.setattr(PrefixTree, "hold_run", counted_run)
    monkeypatch.setattr(PrefixTree, "release", counted_release)
    snapshot, other = cache.snapshot(), Cache(size=1)
    found = calls(lambda: restore(other.tree, other.residency, snapshot)).total()
    monkeypatch.undo()
    other.check()
    assert other.residency.copies == cache.residency.copies
    return found, keys, places


def test_each_block_of_a_snapshot_is_held_once(monkeypatch):
    cache = questions(2 * LONGEST_EDGE, 200)
    blocks = cache.residency.copies
    assert work(cache, monkeypatch)[1:] == (blocks, blocks)


def test_a_snapshot_is_restored_in_work_that_grows_with_its_blocks(monkeypatch):
    few = work(questions(2_000, 50), monkeypatch)[0]
    many = work(questions(8_000, 200), monkeypatch)[0]
    assert many <= 4.4 * few


# -- damage ------------------------------------------------------------------------------


ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 1 << 40, (1 << 64) - 1, -(1 << 63)),
    *("", "CPU", "GPU", "full", "mamba", b"", b"12345678"),
    *([], [1], [None], [[0, 0, [5, None]]], {}),
]


def damage(choose: random.Random, value: Any) -> Any:
    """Something that may stand in a damaged snapshot in place of `value`."""
    if isinstance(value, list) and value and choose.random() < 0.7:
        damaged, place = list(value), choose.randrange(len(value))
        match choose.randrange(4):
            case 0:
                del damaged[place]
            case 1:
                damaged.insert(place, choose.choice(damaged))
            case _:
                damaged[place] = damage(choose, damaged[place])
        return damaged
    if isinstance(value, int) and not isinstance(value, bool) and choose.random() < 0.6:
        odd = value + choose.choice([-2, -1, 1, 2, 7])
        return max(-(1 << 63), min(odd, (1 << 64) - 1))
    if isinstance(value, bytes) and choose.random() < 0.6:
        return choose.choice([value[:-1], value + value, value[:8], value[8:]])
    return choose.choice(ODD_VALUES)


@pytest.mark.parametrize("name", CACHES)
def test_a_damaged_snapshot_is_an_error_or_a_sound_residency(name: str):
    whole = msgspec.msgpack.decode(Cache(*CACHES[name]).snapshot())
    choose, refused = random.Random(name), 0
    for _ in range(250):
        damaged = whole
        for _ in range(choose.choice([1, 1, 2, 3])):
            # What comes before these would always be refused.
            field = choose.choice([3, 4, 5, 5, 5])
            damaged = [*damaged]
            damaged[field] = damage(choose, damaged[field])
        other = Cache(store(prompt(7, 5)), max_blocks=choose.choice([9, 1 << 30]))
        before = other.holding()
        try:
            restore(other.tree, other.residency, msgspec.msgpack.encode(damaged))
        except ValueError:
            refused += 1
            assert other.holding() == before
        other.check()
        other.residency.close()
        assert other.tree.blocks == 0
    assert refused > 50


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_that_counts_nothing_is_left_out(count: int):
    record = msgspec.msgpack.decode(Cache(store(DOCUMENT)).snapshot())
    record[5][0][5:7] = [[hashes(DOCUMENT)[0], count]], [[5, count]]
    other = Cache()
    other.restore(msgspec.msgpack.encode(record))
    assert other.holding() == Cache(store(DOCUMENT)).holding()


def test_bytes_that_are_damaged_anywhere_are_an_error_or_a_sound_residency():
    whole, choose = Cache(*CACHES["media"]).snapshot(), random.Random(1)
    for _ in range(600):
        damaged = bytearray(whole)
        for _ in range(choose.randint(1, 3)):
            damaged[choose.randrange(len(damaged))] = choose.randrange(256)
        other = Cache()
        try:
            restore(other.tree, other.residency, bytes(damaged[: choose.choice([-1, -9, None])]))
        except ValueError:
            continue
        other.check()


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        (0, 2, "version"),
        (1, b"12345678", "another seed"),
        (2, 8, "blocks of 8 tokens"),
        (3, [1], "path 0"),
        (3, [-2], "path 0"),
        (3, [0], "path 0"),
        (3, [], "runs without a parent"),
        (4, [b""], "path 0"),
        (4, [b"1234567"], "path 0"),
    ],
)
def test_a_snapshot_that_cannot_be_read_says_why(field: int, value: object, why: str):
    record = msgspec.msgpack.decode(Cache(store(DOCUMENT)).snapshot())
    record[field] = value
    with pytest.raises(ValueError, match=why):
        Cache().restore(msgspec.msgpack.encode(record))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda layers: [*layers, [9, *layers[0][1:]]], "two main layers"),
        (lambda layers: [*layers, [*layers[0][:7], False]], "a layer twice"),
        (lambda layers: [[*layers[0][:4], [[1, 0, [5]]], [], [], True]], "on no path"),
        (lambda layers: [[*layers[0][:4], [[-1, 0, [5]]], [], [], True]], "on no path"),
        (lambda layers: [[*layers[0][:4], [[0, 6, [5]]], [], [], True]], "beyond their path"),
        (lambda layers: [[*layers[0][:4], [[0, -1, [5]]], [], [], True]], "beyond their path"),
    ],
)
def test_layers_that_cannot_be_read_say_why(change: Any, why: str):
    record = msgspec.msgpack.decode(Cache(store(DOCUMENT)).snapshot())
    record[5] = change(record[5])
    with pytest.raises(ValueError, match=why):
        Cache().restore(msgspec.msgpack.encode(record))
