from __future__ import annotations

import random
from collections.abc import Callable
from math import isfinite

import pytest
from builders import place, prompt, scheduler
from hypothesis import given
from hypothesis import strategies as st

from preble_plugin.core import Finished, FirstToken
from preble_plugin.core.policies.protocol import Choice, View
from preble_plugin.core.time_model import TimeModel

Law = Callable[[int, int], float]


def mistral_7b_a6000(new: int, context: int) -> float:
    seconds = 0.1084 * new + 4.21
    if new * context > 1 << 20:
        seconds += 1.13e-3 * new + 1.75e-3 * context + 2.19e-6 * new * context
    return seconds / 0.9 / 1e3


def mistral_7b_a100(new: int, context: int) -> float:
    seconds = 0.0503 * new + 5.51
    if new * context >= 1 << 20:
        seconds += 0.124 - 7.45e-4 * new + 1.72e-3 * context + 1.363e-6 * new * context
    return seconds / 0.85 / 1e3


def llama_3_70b_a100(new: int, context: int) -> float:
    return (28.93 + 0.1822 * new + 4.0e-3 * context + 2.55e-6 * new * context) / 1e3


def llama_3_70b_h100(new: int, context: int) -> float:
    return (18.67 + 0.0799 * new + 2.69e-3 * context + 7.44e-7 * new * context) / 1e3


HARDWARE = [mistral_7b_a6000, mistral_7b_a100, llama_3_70b_a100, llama_3_70b_h100]
"""PREBLE 5, above the plateau of short prefills."""


def draw_request(draw: random.Random) -> tuple[int, int]:
    """New tokens from 384 and context up to 23,000, spread over the orders."""
    context = int(2 ** draw.uniform(10, 14.5))
    return min(context, int(2 ** draw.uniform(8.6, 14.5))), context


def worst_error(model: TimeModel, law: Law, seed: int = 99) -> float:
    draw = random.Random(seed)
    requests = [draw_request(draw) for _ in range(300)]
    return max(abs(model.prefill_seconds(*each) / law(*each) - 1) for each in requests)


def teach(
    model: TimeModel,
    law: Law,
    observations: int,
    group: int = 1,
    noise: float = 0.05,
    seed: int = 1,
) -> TimeModel:
    draw = random.Random(seed)
    for _ in range(observations):
        requests = [draw_request(draw) for _ in range(draw.randint(1, group))]
        model.observe_prefill(
            len(requests),
            sum(new for new, _ in requests),
            sum(context for _, context in requests),
            sum(new * context for new, context in requests),
            sum(law(*each) for each in requests) * draw.lognormvariate(0, noise),
        )
    return model


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("law", HARDWARE)
def test_prefill_converges_on_each_hardware_of_the_paper(law, group):
    assert worst_error(teach(TimeModel(), law, 300, group), law) < 0.15


@pytest.mark.parametrize("law", HARDWARE)
def test_prefill_is_useful_after_twenty_observations(law):
    assert worst_error(teach(TimeModel(), law, 20), law) < 0.35


@pytest.mark.parametrize("factor", [1 / 50, 1 / 5, 5, 50])
def test_a_prior_that_is_far_off_is_left_behind(factor):
    def law(new: int, context: int) -> float:
        return llama_3_70b_a100(new, context) * factor

    assert worst_error(teach(TimeModel(), law, 100), law) < 0.15


@pytest.mark.parametrize("factor", [1 / 4, 4])
def test_a_change_of_speed_is_followed(factor):
    def changed(new: int, context: int) -> float:
        return llama_3_70b_a100(new, context) * factor

    model = teach(TimeModel(), llama_3_70b_a100, 300)

    assert worst_error(teach(model, changed, 250, seed=2), changed) < 0.15


def test_a_first_observation_with_a_compile_in_it_is_forgotten_soon():
    model = TimeModel()
    model.observe_prefill(1, 2048, 2048, 2048 * 2048, 60.0)

    assert worst_error(teach(model, llama_3_70b_a100, 40), llama_3_70b_a100) < 0.15


def test_pauses_and_early_answers_do_not_move_it():
    model = teach(TimeModel(), llama_3_70b_a100, 200)
    for round_ in range(20):
        teach(model, llama_3_70b_a100, 19, seed=round_)
        model.observe_prefill(1, 2048, 2048, 2048 * 2048, 30.0 if round_ % 2 else 1e-5)

    assert worst_error(model, llama_3_70b_a100) < 0.15


def test_one_pause_moves_it_less_than_a_tenth():
    model = teach(TimeModel(), llama_3_70b_a100, 200)
    before = model.prefill_seconds(2048, 2048)
    model.observe_prefill(1, 2048, 2048, 2048 * 2048, 300.0)
    for _ in range(3):
        model.observe_prefill(1, 2048, 2048, 2048 * 2048, llama_3_70b_a100(2048, 2048))

    assert model.prefill_seconds(2048, 2048) == pytest.approx(before, rel=0.1)


def test_a_replica_never_observed_goes_by_what_the_fleet_has_learned():
    fleet = TimeModel()
    observed, fresh = TimeModel(fleet), TimeModel(fleet)
    teach(observed, llama_3_70b_h100, 10)

    assert fresh.prefill_seconds(2048, 4096) == observed.prefill_seconds(2048, 4096)
    assert fresh.prefill_seconds(2048, 4096) != TimeModel().prefill_seconds(2048, 4096)


def test_a_replica_that_differs_goes_its_own_way():
    fleet = TimeModel()
    fast, slow = TimeModel(fleet), TimeModel(fleet)
    for round_ in range(30):
        teach(fast, llama_3_70b_h100, 10, seed=round_)
        teach(slow, llama_3_70b_a100, 10, seed=round_)

    assert worst_error(fast, llama_3_70b_h100) < 0.15
    assert worst_error(slow, llama_3_70b_a100) < 0.15


def test_decode_steps_are_learned_by_batch_and_context():
    def step(running: float, context: float) -> float:
        return 0.022 + 2e-4 * running + 1.86e-7 * context

    draw = random.Random(1)
    model = TimeModel()
    for _ in range(400):
        running = draw.randint(1, 64)
        context = running * draw.randint(500, 8000)
        steps = draw.randint(4, 400)
        seconds = steps * step(running, context) * draw.lognormvariate(0, 0.05)
        model.observe_decode(steps, context, running, seconds)

    for running, context in [(1, 2000), (8, 4000), (64, 3000)]:
        share = 100 * (0.022 / running + 2e-4 + 1.86e-7 * (context + 50))
        assert model.decode_seconds(100, context, running) == pytest.approx(share, rel=0.15)


def test_requests_priced_together_cost_what_they_cost_one_by_one():
    model = teach(TimeModel(), llama_3_70b_h100, 50)
    requests = [(500, 2000), (2000, 2000), (16, 9000)]

    together = model.queue_seconds(3, 2516, 13000, sum(new * context for new, context in requests))

    assert together == pytest.approx(sum(model.prefill_seconds(*each) for each in requests))


def test_the_prior_computes_about_nine_thousand_tokens_a_second():
    assert 8_000 < TimeModel().prefill_tokens_per_second < 10_000


def test_a_prompt_with_nothing_to_compute_costs_nothing():
    assert TimeModel().prefill_seconds(0, 5000) == 0.0


tokens = st.integers(-10, 10**30)
seconds = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 1e4)
observations = st.lists(
    st.tuples(st.booleans(), st.integers(-2, 10**9), tokens, tokens, tokens, seconds), max_size=40
)


def model_after(seen: list[tuple[bool, int, int, int, int, float]]) -> TimeModel:
    model = TimeModel()
    for prefill, requests, new, context, product, took in seen:
        if prefill:
            model.observe_prefill(requests, new, context, product, took)
        else:
            model.observe_decode(new, context, requests, took)
    return model


@given(observations, tokens, tokens, st.integers(-5, 10**6))
def test_predictions_are_finite_and_not_negative_whatever_was_observed(seen, new, prompt, running):
    model = model_after(seen)
    predictions = [
        model.prefill_seconds(new, prompt),
        model.decode_seconds(new, prompt, running),
        model.prefill_tokens_per_second,
        *model.prefill_coefficients,
        *model.decode_coefficients,
    ]

    assert all(isfinite(each) and each >= 0 for each in predictions)


@given(observations, tokens, tokens, st.integers(0, 10**30))
def test_more_new_tokens_never_cost_less(seen, new, prompt, more):
    model = model_after(seen)

    assert model.prefill_seconds(new + more, prompt) >= model.prefill_seconds(new, prompt)
    assert model.decode_seconds(new + more, prompt, 8) >= model.decode_seconds(new, prompt, 8)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_decode_of_any_length_is_finite(output):
    assert isfinite(TimeModel().decode_seconds(output, output, 1))


def test_no_replica_of_a_fleet_prefills_in_less_than_the_least():
    choose = random.Random(4)
    fleet = TimeModel()
    models = [TimeModel(fleet) for _ in range(5)]
    speeds = [choose.uniform(0.3, 3.0) for _ in models]
    for _ in range(600):
        which = choose.randrange(5)
        new, prompt = choose.randrange(1, 4000), 4000
        seconds = speeds[which] * (0.01 + 1e-4 * new) * choose.uniform(0.7, 1.3)
        models[which].observe_prefill(1, new, prompt, new * prompt, seconds)
        asked = choose.randrange(1, 8000)
        least = TimeModel.least_prefill_seconds(models, asked, 8000)
        exact = min(model.prefill_seconds(asked, 8000) for model in models)
        assert 0.0 <= least <= exact + 1e-12


class Bounds:
    """Goes anywhere, and keeps the least prefill it was shown beside the true one."""

    name = "bounds"

    def __init__(self) -> None:
        self.least: list[float] = []
        self.exact: list[float] = []

    def choose(self, view: View) -> Choice:
        self.least.append(view.least_prefill_seconds)
        self.exact.append(min(one.prefill_seconds for one in view.candidates))
        return Choice(0, "any")


def test_a_replica_that_joins_does_not_prefill_in_less_than_the_least():
    bounds = Bounds()
    made = scheduler(2, policy=bounds)
    number = 0
    for replica, requests, per_token in ((0, 200, 2e-5), (1, 40, 2e-3)):
        for _ in range(requests):
            number += 1
            name, at, tokens = str(number), 100.0 * number, prompt(number, 10 + number % 90)
            place(made, name, tokens, at, fixed_replica=replica)
            made.observe(replica, [FirstToken(name, 0)], at + per_token * len(tokens))
            made.observe(replica, [Finished(name, 1)], at + 99.0)
    made.remove_replica(0)
    place(made, "before", prompt(3000, 100), 90_000.0)
    made.add_replica("new")
    place(made, "after", prompt(3001, 100), 90_001.0)

    assert bounds.exact[1] < bounds.exact[0] / 2
    assert all(least <= exact for least, exact in zip(bounds.least, bounds.exact, strict=True))


# -- loads from slower media -------------------------------------------------------------


def test_a_load_costs_a_quarter_of_computing_until_one_was_seen():
    assert TimeModel().load_share("CPU", 4000) == 0.25


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_what_a_load_costs_is_learned_by_medium_and_for_the_fleet(share):
    fleet = TimeModel()
    one, other = TimeModel(fleet), TimeModel(fleet)
    computed = one.prefill_seconds(1000, 2000) - one.prefill_seconds(999, 2000)
    for tokens in (100, 1000, 300) * 10:
        one.observe_load("CPU", tokens, share * computed * tokens)
    assert other.load_share("CPU", 2000) == pytest.approx(share, rel=0.02)
    assert other.load_share("CPU", 20_000) < share, "a later token takes longer to compute"
    assert other.load_share("DISK", 2000) == 0.25


@pytest.mark.parametrize(("seconds", "share"), [(-1.0, 0.0), (0.0, 0.0), (1e3, 1.0)])
def test_a_load_is_never_worth_more_than_computing_nor_less_than_nothing(seconds, share):
    model = TimeModel()
    for _ in range(50):
        model.observe_load("CPU", 1000, seconds)
    assert model.load_share("CPU", 2000) == pytest.approx(share, abs=1e-3)
