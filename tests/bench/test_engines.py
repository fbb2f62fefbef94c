import pytest

from preble_plugin.bench.engines import Sglang, Vllm
from preble_plugin.bench.plan import Plan

ENGINES = pytest.mark.parametrize("engine", [Vllm(), Sglang()], ids=lambda engine: engine.name)


@ENGINES
def test_the_sides_differ_in_the_scheduler_alone(engine: Vllm | Sglang) -> None:
    own, preble = engine.arguments("default", Plan()), engine.arguments("preble", Plan())
    assert preble == [*own, "--dp-scheduler", "preble"]


@ENGINES
def test_settings_go_to_the_side_that_has_a_scheduler(engine: Vllm | Sglang) -> None:
    plan = Plan(settings='{"policy": "e2-paper"}')
    assert engine.arguments("preble", plan)[-2:] == ["--dp-scheduler-config", plan.settings]
    assert "--dp-scheduler-config" not in engine.arguments("default", plan)


def test_another_dispatch_of_sglangs_own_is_asked_for_as_sglang_asks_for_it() -> None:
    own, other = Sglang().arguments("default", Plan()), Sglang().arguments("total_tokens", Plan())
    assert other == [*own, "--load-balance-method", "total_tokens"]


def test_both_engines_get_a_cache_of_as_many_tokens() -> None:
    plan = Plan(cache_tokens=3200)
    assert Vllm().arguments("default", plan)[-2:] == ["--num-gpu-blocks-override", "100"]
    assert Sglang().arguments("default", plan)[-2:] == ["--max-total-tokens", "3200"]


@ENGINES
def test_the_callers_shell_says_nothing_of_placement(engine: Vllm | Sglang) -> None:
    assert engine.environment["PREBLE_DP_SCHEDULER"] is None
