from __future__ import annotations

import gc
import tracemalloc
import weakref

import pytest
from builders import BLOCK, place, prompt, request, scheduler, store

from preble_plugin.core import Finished, FirstToken, Request, Scheduler
from preble_plugin.core.policies.protocol import Choice, View
from preble_plugin.core.receipts import CandidateReceipt, Receipt, ReceiptRing
from preble_plugin.core.status import Trust


def receipt(request_id: str, external_id: str | None = None) -> Receipt:
    candidates = (CandidateReceipt(0, 64, 0.5, None, 0.2, Trust.EXACT),)
    return Receipt(request_id, external_id, 1.0, "e2", "exploit", 0, 2048, 64, candidates)


def ring(*receipts: Receipt, capacity: int = 100) -> ReceiptRing:
    kept = ReceiptRing(capacity)
    for each in receipts:
        kept.add(each)
    return kept


def ids(found: list[Receipt]) -> list[str]:
    return [each.request_id for each in found]


def test_a_receipt_is_found_by_the_engines_id():
    assert ids(ring(receipt("a"), receipt("b")).find("b")) == ["b"]


def test_a_receipt_is_found_by_the_clients_id():
    assert ids(ring(receipt("a-1f", "a"), receipt("b-2e", "b")).find("a")) == ["a-1f"]


def test_the_children_of_one_request_are_found_together_in_order():
    kept = ring(receipt("1_x", "x"), receipt("y", "y"), receipt("0_x", "x"))

    assert ids(kept.find("x")) == ["1_x", "0_x"]


def test_the_numbered_prompts_of_a_completion_are_found_by_its_id():
    kept = ring(receipt("7", "cmpl-a-0"), receipt("8", "cmpl-a-1"), receipt("9", "cmpl-ab-0"))

    assert ids(kept.find("cmpl-a")) == ["7", "8"]


def test_nothing_is_found_of_an_id_never_seen():
    assert ring(receipt("a", "b")).find("c") == []


def test_the_oldest_falls_out_when_the_ring_is_full():
    kept = ring(*(receipt(str(number)) for number in range(10)), capacity=3)

    assert (len(kept), kept.find("6"), ids(kept.find("7"))) == (3, [], ["7"])


def test_a_request_placed_again_has_its_last_receipt_and_its_last_place():
    again = receipt("a")
    kept = ring(receipt("a"), receipt("b"), again, receipt("c"), capacity=2)

    assert kept.find("a") == [again]
    assert kept.find("b") == []


def test_what_comes_of_a_request_is_seen_in_its_receipt():
    placed = receipt("a")
    kept = ring(placed)
    placed.actual_cached_tokens = 48

    assert kept.find("a")[0].actual_cached_tokens == 48


def test_a_ring_without_capacity_keeps_nothing():
    kept = ring(receipt("a"), capacity=0)

    assert (len(kept), kept.find("a")) == (0, [])


def test_a_negative_capacity_is_refused():
    with pytest.raises(ValueError, match="0 or more"):
        ReceiptRing(-1)


# -- what a receipt keeps ----------------------------------------------------------------


POLICIES = ["e2", "lmetric", "min-ttft", "round-robin"]
LISTED = 8


def busy(replicas: int, policy: str = "e2") -> Scheduler:
    """Document 1 on replicas 0 and 1, half of it on replica 2; a request on each."""
    made = scheduler(replicas, capacity=10_000, policy=policy, receipts=200)
    for replica, blocks in ((0, 40), (1, 40), (2, 20)):
        made.apply(replica, [store(prompt(1, blocks))], 0.0)
    for replica in range(replicas):
        place(made, f"busy {replica}", prompt(100 + replica, 20), 1.0, fixed_replica=replica)
    return made


def explained(made: Scheduler, tokens: list[int] | None = None, **fields: object) -> Receipt:
    place(made, "a", prompt(1, 40, extra=5) if tokens is None else tokens, 2.0, **fields)
    (found,) = made.explain("a")
    return found


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("replicas", [1, 8, 64])
def test_a_receipt_takes_less_than_a_kilobyte(replicas: int, policy: str):
    made = scheduler(replicas, capacity=10_000, policy=policy, receipts=20_000)
    for replica in range(replicas):
        made.apply(replica, [store(prompt(1, 40 + replica))], 0.0)
    keys = made.hasher.prompt_keys(prompt(1, 120))

    def served(first: int, last: int) -> int:
        """Bytes in use once these requests have ended."""
        for number in range(first, last):
            name, now = f"request-{number:032d}", 10.0 + 2 * number
            placed = made.place(Request(name, keys, 120 * BLOCK + 5, f"{name}-x"), now)
            made.observe(placed.replica, [FirstToken(name, placed.cached_tokens + 1)], now + 0.5)
            made.observe(placed.replica, [Finished(name, 300)], now + 1.0)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = served(0, 200)
        assert (served(200, 1000) - before) / 800 < 1024
    finally:
        tracemalloc.stop()


def test_a_receipt_keeps_no_replica_alive():
    made = busy(8)
    explained(made)
    gone = weakref.ref(made._replicas[0])
    made.remove_replica(0)
    gc.collect()
    assert gone() is None
    assert made.explain("a")[0].candidates[0].replica == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_a_small_fleet_is_listed_whole_with_its_hits(policy: str):
    receipt = explained(busy(LISTED, policy))
    assert [one.replica for one in receipt.candidates] == list(range(LISTED))
    assert [one.hit_tokens // BLOCK for one in receipt.candidates] == [40, 40, 20, 0, 0, 0, 0, 0]
    assert receipt.unlisted_replicas == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_of_a_large_fleet_the_chosen_and_the_longest_hits_are_listed(policy: str):
    receipt = explained(busy(64, policy))
    listed = {one.replica: one for one in receipt.candidates}
    assert {0, 1, receipt.replica} <= set(listed)
    assert len(listed) <= LISTED
    assert receipt.unlisted_replicas == 64 - len(listed)
    assert listed[receipt.replica].prefill_seconds is not None
    assert [listed[one].hit_tokens // BLOCK for one in (0, 1)] == [40, 40]


class Last:
    """Looks at all replicas, and takes the last."""

    name = "last"

    def choose(self, view: View) -> Choice:
        return Choice([one.index for one in view.candidates][-1], "last")


def test_of_many_looked_at_the_chosen_and_the_longest_hits_are_listed():
    made = scheduler(64, policy=Last())
    for replica, blocks in ((59, 20), (60, 40), (61, 40), (62, 30)):
        made.apply(replica, [store(prompt(1, blocks))], 0.0)
    receipt = explained(made)
    assert receipt.replica == 63
    assert [one.replica for one in receipt.candidates] == [0, 1, 2, 59, 60, 61, 62, 63]
    assert receipt.unlisted_replicas == 56


def test_what_the_policy_would_have_chosen_is_listed():
    made = busy(64, "lmetric")
    asked = request(made, "a", prompt(7, 40))
    made.dispatched(asked, 63, 2.0, shadow=True)
    (receipt,) = made.explain("a")
    assert receipt.would_be is not None
    assert {63, receipt.would_be.replica} <= {one.replica for one in receipt.candidates}


def test_the_figures_are_those_of_the_decision():
    made = busy(2, "lmetric")
    one = made._view(request(made, "a", prompt(1, 40, extra=5)), 2.0).candidates[0]
    shown = pytest.approx((one.load_seconds, one.prefill_seconds), rel=1e-6)
    kept = explained(made, fixed_replica=0).candidates[0]
    assert (kept.load_seconds, kept.prefill_seconds) == shown
    assert (kept.eviction_seconds, kept.in_flight, kept.hit_tokens) == (None, 1, one.hit_tokens)


def test_what_was_not_looked_at_has_a_hit_and_no_costs():
    looked_at, other, *_ = explained(busy(3), fixed_replica=0).candidates
    assert (other.hit_tokens, other.in_flight) == (40 * BLOCK, None)
    assert (other.load_seconds, other.eviction_seconds, other.prefill_seconds) == (None,) * 3
    assert looked_at.in_flight == 1


def test_of_many_different_hits_the_longest_is_listed():
    made = scheduler(8, policy="round-robin")
    for replica in range(8):
        made.apply(replica, [store(prompt(1, 40 + replica))], 0.0)
    receipt = explained(made, prompt(1, 60), fixed_replica=2)
    hits = {one.replica: one.hit_tokens // BLOCK for one in receipt.candidates}
    assert (hits, receipt.unlisted_replicas) == ({2: 42, 7: 47}, 6)


def test_trust_is_that_of_the_decision():
    made = busy(2)
    made.set_trust(1, Trust.GAPPED)
    explained(made)
    made.set_trust(1, Trust.EXACT)
    assert [one.trust for one in made.explain("a")[0].candidates] == [Trust.EXACT, Trust.GAPPED]
