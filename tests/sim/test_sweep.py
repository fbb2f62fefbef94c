from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from preble_plugin.core.policies import registry
from preble_plugin.core.policies.protocol import Choice, View
from preble_plugin.core.policies.registry import policy_names
from preble_plugin.sim.beyond import ABLATIONS, CLAIRVOYANT
from preble_plugin.sim.hardware import load_hardware
from preble_plugin.sim.sweep import (
    RATES,
    Cell,
    Result,
    Setup,
    all_policies,
    asked_of,
    check_names,
    default_rates,
    run_cell,
    run_cells,
    typed_options,
)
from preble_plugin.sim.trace import write_trace
from preble_plugin.sim.workloads import WORKLOADS, make

A6000 = load_hardware("mistral-7b-a6000")


def setup(
    requests: int = 120, kv_tokens: int = A6000.kv_tokens, trace: Path | None = None
) -> Setup:
    hardware = msgspec.structs.replace(A6000, kv_tokens=kv_tokens)
    return Setup(hardware=hardware, replicas=2, requests=requests, trace=trace)


def cell(policy: str = "e2", workload: str = "tool", rate: float = 10, seed: int = 1) -> Cell:
    return Cell(workload, rate, policy, seed)


def names(results: list[Result]) -> list[tuple[str, str, int | None]]:
    return [(one.workload, one.policy, one.seed) for one in results]


def test_each_cell_has_its_result_in_order() -> None:
    cells = [cell("round-robin"), cell("e2"), cell("e2", seed=2)]
    results = list(run_cells(cells, setup()))
    assert names(results) == [("tool", "round-robin", 1), ("tool", "e2", 1), ("tool", "e2", 2)]
    assert [one.figures.requests for one in results if one.figures] == [120, 120, 120]


def test_processes_give_what_one_gives() -> None:
    cells = [cell("round-robin"), cell("e2"), cell("e2", workload="nowhere"), cell("e2", seed=2)]
    assert list(run_cells(cells, setup(), jobs=2)) == list(run_cells(cells, setup()))


def test_seeds_draw_other_requests() -> None:
    first, second = run_cells([cell(seed=1), cell(seed=2)], setup())
    assert first.figures != second.figures


def test_progress_is_told_of_each_request() -> None:
    told: list[None] = []
    run_cell(cell(), setup(requests=50), lambda: told.append(None))
    assert len(told) == 50


def test_a_cell_that_fails_does_not_lose_the_others() -> None:
    cells = [cell(workload="document", rate=1), cell(workload="tool")]
    failed, served = run_cells(cells, setup(kv_tokens=9000))
    assert failed.figures is None
    assert failed.error is not None
    assert "more than the 8992 that a replica of mistral-7b-a6000 holds" in failed.error
    assert served.error is None
    assert served.figures is not None


def test_an_error_of_a_policy_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        name = "broken"

        def choose(self, view: View) -> Choice:
            raise ZeroDivisionError("nothing to divide by")

    monkeypatch.setitem(registry.BUILT_IN, "broken", Broken)
    error = run_cell(cell("broken"), setup()).error
    assert error is not None
    assert error.startswith("ZeroDivisionError: nothing to divide by (test_sweep.py:")


def test_a_trace_is_replayed_up_to_the_requests_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "recorded.jsonl"
    write_trace(path, make("tool", requests=80, rate=10, seed=1))
    found = run_cell(Cell("recorded", None, "e2", None), setup(requests=60, trace=path))
    assert found.error is None
    assert found.figures is not None
    assert found.figures.requests == 60


def test_a_rate_stretches_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "recorded.jsonl"
    write_trace(path, make("tool", requests=80, rate=10, seed=1))
    asked = asked_of(Cell("recorded", 40, "e2", None), setup(requests=80, trace=path))
    assert asked[-1].at == pytest.approx(79 / 40)


def test_policies_are_cores_and_those_that_know_more() -> None:
    assert all_policies().keys() >= {*policy_names(), *CLAIRVOYANT, *ABLATIONS}


@pytest.mark.parametrize("policy", ["oracle", "bound"])
def test_those_that_know_more_run_too(policy: str) -> None:
    assert run_cell(cell(policy), setup()).error is None


def test_every_workload_has_rates() -> None:
    assert RATES.keys() == WORKLOADS.keys()


def test_rates_grow_with_the_replicas() -> None:
    assert default_rates("tool", 4) == (10, 20, 30)
    assert default_rates("tool", 8) == (20, 40, 60)


def test_an_unknown_name_is_told_with_those_there_are() -> None:
    words = r"no policy 'orcale', did you mean 'oracle'\? There are: e2, oracle"
    with pytest.raises(ValueError, match=words):
        check_names("policy", ["e2", "orcale"], ["e2", "oracle"])


def test_options_reach_the_workloads_that_take_them_in_their_type() -> None:
    assert typed_options(["tool", "hot", "unique"], {"live": "7", "share": "0.5"}) == {
        "tool": {"live": 7},
        "hot": {"share": 0.5},
        "unique": {},
    }


def test_options_change_the_requests() -> None:
    told = msgspec.structs.replace(setup(), options={"hot": {"prefix_tokens": 500}})
    ours = cell(workload="hot")
    assert sum(one.prompt_tokens for one in asked_of(ours, told)) < sum(
        one.prompt_tokens for one in asked_of(ours, setup())
    )


def test_an_option_that_no_workload_takes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no option of these workloads 'lives', did you mean"):
        typed_options(["tool"], {"lives": "7"})


def test_an_option_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tool: live takes int \(default 256\), got 'many'"):
        typed_options(["tool"], {"live": "many"})
