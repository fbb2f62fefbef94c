from __future__ import annotations

import msgspec
import pytest

from preble_plugin.core.receipts import CandidateReceipt, Receipt, ReceiptRing
from preble_plugin.core.status import Trust


def receipt(request_id: str, external_id: str | None = None) -> Receipt:
    candidates = [CandidateReceipt(0, 64, 0.5, None, 0.2, Trust.EXACT)]
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


def test_a_receipt_survives_the_wire():
    placed = receipt("a", "x")

    assert msgspec.json.decode(msgspec.json.encode(placed), type=Receipt) == placed
