"""What a policy is shown, against prompts as plain lists of blocks."""

from __future__ import annotations

import random

import pytest
from builders import BLOCK, decode, hold, place, prompt, scheduler, slow, use, view, wait

from preble_plugin.core import Finished, Scheduler


def family(choose: random.Random) -> list[list[int]]:
    """Prompts that share their beginnings."""
    found = [prompt(1, 24)]
    for name in range(2, 9):
        kept = choose.choice(found)[: BLOCK * choose.randrange(1, 20)]
        found.append(kept + prompt(name, choose.randrange(1, 12)))
    return found


def common(left: list[int], right: list[int]) -> int:
    """Whole blocks in which two prompts agree from the start."""
    blocks = 0
    while left[blocks * BLOCK : (blocks + 1) * BLOCK] == right[
        blocks * BLOCK : (blocks + 1) * BLOCK
    ] and (blocks + 1) * BLOCK <= len(left):
        blocks += 1
    return blocks


@pytest.mark.parametrize("drop", [0, 1])
@pytest.mark.parametrize("seed", range(12))
def test_hits_are_the_longest_prefix_that_each_replica_holds(seed, drop):
    choose = random.Random(seed)
    prompts, made = family(choose), scheduler(choose.choice([1, 3, 5]))
    held: dict[object, list[list[int]]] = {replica: [] for replica in made.replicas}
    for replica in made.replicas:
        # The last one may differ from the others in what it computes again.
        made.add_replica(replica, drop_blocks=drop if replica else 0)
    for _ in range(choose.randrange(9)):
        replica, tokens = choose.choice(made.replicas), choose.choice(prompts)
        hold(made, replica, tokens)
        held[replica].append(tokens)

    for tokens in [*prompts, [*prompts[0], 5], prompts[1][:BLOCK], prompts[2][:7]]:
        shown = view(made, tokens)
        limit = max((len(tokens) - 1) // BLOCK, 0)
        hits = []
        for replica in made.replicas:
            longest = max((common(tokens, one) for one in held[replica]), default=0)
            hits.append(max(min(longest, limit) - (drop if replica else 0), 0) * BLOCK)
        assert [one.hit_tokens for one in shown.candidates] == hits
        assert [one.miss_tokens for one in shown.candidates] == [len(tokens) - hit for hit in hits]
        assert shown.longest_hit_tokens == max(hits)
        assert list(shown.holders) == [i for i, hit in enumerate(hits) if hit == max(hits)]


@pytest.mark.parametrize("seed", range(12))
def test_no_replica_prefills_in_less_than_the_bounds_say(seed):
    choose = random.Random(seed)
    prompts, made = family(choose), scheduler(4)
    for replica in range(4):
        if choose.random() < 0.7:
            slow(made, replica, choose.choice([0.5, 1.0, 4.0]))
        hold(made, replica, choose.choice(prompts))
    for tokens in prompts:
        shown = view(made, tokens)
        seconds = [one.prefill_seconds for one in shown.candidates]
        elsewhere = [s for i, s in enumerate(seconds) if i not in shown.holders]
        assert 0.0 < shown.least_prefill_seconds <= min(seconds) + 1e-12
        if elsewhere:
            assert 0.0 < shown.least_prefill_elsewhere_seconds <= min(elsewhere) + 1e-12


def test_the_bounds_are_exact_for_a_fleet_that_has_learned_nothing():
    made = scheduler(3)
    hold(made, 0, prompt(1, 20))
    hold(made, 1, prompt(1, 12))
    shown = view(made, prompt(1, 30))
    seconds = [one.prefill_seconds for one in shown.candidates]
    assert shown.least_prefill_seconds == pytest.approx(seconds[0])
    assert shown.least_prefill_elsewhere_seconds == pytest.approx(seconds[1])


def test_a_request_that_skips_the_cache_is_shown_no_hits():
    made = scheduler(2)
    hold(made, 1, prompt(1, 20))
    shown = view(made, prompt(1, 20), reads_cache=False)
    assert (shown.longest_hit_tokens, list(shown.holders)) == (0, [0, 1])
    assert [one.miss_tokens for one in shown.candidates] == [320, 320]
    assert shown.least_prefill_seconds == pytest.approx(shown.candidates[0].prefill_seconds)


def test_the_sums_by_replica_are_those_of_its_candidates():
    made = scheduler(3)
    wait(made, 0, 2000)
    decode(made, 1, 3)
    wait(made, 1, 500)
    shown = view(made, prompt(1, 4), 0.05)
    assert shown.load_seconds == [one.load_seconds for one in shown.candidates]
    assert shown.in_flight == [one.waiting + one.running for one in shown.candidates] == [1, 4, 0]
    assert shown.load_seconds[0] > shown.load_seconds[1] > shown.load_seconds[2] == 0.0
    assert list(shown.candidates[1:]) == [shown.candidates[1], shown.candidates[2]]
    assert shown.candidates[1] is shown.candidates[1]


# -- hit share -----------------------------------------------------------------------------


def asked(made: Scheduler, tokens: list[int], times: int, now: float = 1.0, on: int = 0) -> None:
    for _ in range(times):
        use(made, on, tokens, now)


def test_hit_share_is_that_of_the_requests_through_the_longest_hits_last_block():
    # Everybody goes through the preamble, one in four through the document.
    made, preamble = scheduler(1), prompt(1, 10)
    document = preamble + prompt(2, 20)
    hold(made, 0, document)
    asked(made, preamble + prompt(3, 0, 5), 30)
    asked(made, document + prompt(3, 0, 5), 10)
    assert view(made, document + prompt(4, 1), 2.0).hit_share == pytest.approx(0.25)
    assert view(made, preamble + prompt(4, 1), 2.0).hit_share == pytest.approx(1.0)
    assert view(made, prompt(5, 9), 2.0).hit_share == 0.0


def test_hit_share_counts_the_requests_of_all_replicas():
    made, document = scheduler(3), prompt(1, 20)
    hold(made, 0, document)
    asked(made, document, 3, on=0)
    asked(made, document, 2, on=1)
    asked(made, prompt(2, 3), 5, on=2)
    assert view(made, document, 2.0).hit_share == pytest.approx(0.5)


@pytest.mark.parametrize(("times", "share"), [(1, 0.0), (2, 1.0)])
def test_one_request_alone_says_nothing_of_a_share(times, share):
    made, document = scheduler(1), prompt(1, 20)
    hold(made, 0, document)
    asked(made, document, times)
    assert view(made, document, 2.0).hit_share == share


def test_hit_share_fades_as_other_requests_take_over():
    made, document = scheduler(1), prompt(1, 20)
    hold(made, 0, document)
    asked(made, document, 8, 10.0)
    asked(made, prompt(2, 3), 4, 200.0)
    # Half of the first window is still within the last three minutes: 4 of 8.
    assert view(made, document, 270.0).hit_share == pytest.approx(0.5)
    assert view(made, document, 361.0).hit_share == 0.0


# -- what is in flight ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_new_active_blocks_are_those_that_no_prompt_in_flight_has(seed):
    choose = random.Random(seed)
    prompts, made = family(choose), scheduler(2)
    flying: dict[str, tuple[object, list[int]]] = {}
    for number in range(14):
        if flying and choose.random() < 0.4:
            name = choose.choice(sorted(flying))
            made.observe(flying.pop(name)[0], [Finished(name, 3)], 1.0)
        else:
            tokens = choose.choice(prompts)
            placed = place(made, str(number), tokens, 1.0, fixed_replica=choose.randrange(2))
            flying[str(number)] = placed.replica, tokens
        shown = view(made, prompts[0], 1.0)
        for position, replica in enumerate(made.replicas):
            on = [tokens for where, tokens in flying.values() if where == replica]
            blocks = {
                tuple(tokens[: end * BLOCK])
                for tokens in on
                for end in range(1, 1 + len(tokens) // BLOCK)
            }
            shared = max((common(prompts[0], tokens) for tokens in on), default=0)
            assert shown.candidates[position].active_blocks == len(blocks)
            assert shown.new_active_blocks[position] == 24 - shared


# -- ties ----------------------------------------------------------------------------------


def test_the_prefix_hash_tells_apart_prompts_that_share_a_template():
    made, template = scheduler(2), prompt(1, 10)
    hold(made, 0, template)
    hashes = {view(made, template + prompt(10 + name, 3)).prefix_hash for name in range(20)}
    assert len(hashes) == 20


def test_the_prefix_hash_is_of_the_first_block_that_nobody_knows_or_of_the_last():
    made, known = scheduler(2), prompt(1, 10)
    before = view(made, known + prompt(2, 3)).prefix_hash
    assert before == view(made, known + prompt(3, 3)).prefix_hash
    hold(made, 0, known)
    assert view(made, known + prompt(2, 3)).prefix_hash == (
        view(made, known + prompt(2, 5)).prefix_hash
    )
    assert view(made, known).prefix_hash == view(made, [*known, 7]).prefix_hash
    assert view(made, known).prefix_hash not in (before, 0)
    assert view(made, [1, 2, 3]).prefix_hash == 0
