"""From timings and answers on disk to a profile and a report, without an engine: a replica
of known coefficients stands for it."""

from pathlib import Path

import msgspec
import pytest

from benchmarks.validate import stage
from benchmarks.validate.__main__ import main
from benchmarks.validate.compare import PACING, Beside, Run, at
from benchmarks.validate.fit import Fitted
from benchmarks.validate.scaling import Cell
from preble_plugin.sim.hardware import load_hardware
from tests.bench.validate_builders import KNOWN, answers_of, fitted, timings

CELL = Cell("document", rate=2.5, requests=60, seed=1)


def engine(efficiency: float) -> Fitted:
    """As an engine would be: its limits, and the coefficients of `KNOWN`."""
    limits = stage.limits("vllm")
    hardware = msgspec.structs.replace(
        KNOWN, name=limits.name, kv_tokens=limits.kv_tokens, max_running=limits.max_running
    )
    return at(msgspec.structs.replace(fitted(0.008), hardware=hardware), efficiency)


def written(out: Path, efficiency: float) -> Path:
    """What `fit` and `run` leave: e2 and vLLM's own dispatch, once each, as fast as
    `efficiency` says."""
    (out / "samples.jsonl").write_bytes(msgspec.json.encode(timings(0.008)) + b"\n")
    with (out / "runs.jsonl").open("wb") as file:
        for policy, in_core in (("e2", "e2"), ("own", "least-loaded")):
            paced = answers_of(PACING.workload(), engine(efficiency), "round-robin")
            heard = answers_of(CELL.workload(), engine(efficiency), in_core)
            file.write(msgspec.json.encode(Run("vllm", policy, CELL, 0.0, paced, heard)) + b"\n")
    return out


def test_an_engine_that_is_as_the_simulator_says_is_reported_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = written(tmp_path, efficiency=0.8)
    assert main(["--engine", "vllm", "--steps", "report", "--out", str(out)]) == 0
    rows = msgspec.json.decode((out / "rows.json").read_bytes(), type=list[Beside])
    assert [row.policy for row in rows] == ["e2", "own"]
    for row in rows:
        assert row.simulated_ttft == pytest.approx(row.ttft, rel=0.03)
        assert row.simulated_latency == pytest.approx(row.latency, rel=0.03)
    assert "same order of policies: 1 of 1 cells" in capsys.readouterr().out


def test_the_profile_is_one_that_the_simulator_loads(tmp_path: Path) -> None:
    out = written(tmp_path, efficiency=0.8)
    main(["--engine", "vllm", "--steps", "report", "--out", str(out)])
    profile = load_hardware(str(out / "profile.json"))
    assert profile.efficiency == pytest.approx(0.8, rel=0.02)
    assert profile.step_seconds([(512, 1024)], 4, 2000) == pytest.approx(
        engine(0.8).hardware.step_seconds([(512, 1024)], 4, 2000), rel=0.03
    )


def test_a_report_without_timings_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--steps", "report", "--out", str(tmp_path)]) == 1
    assert "samples.jsonl" in capsys.readouterr().err


def test_a_cell_of_an_unknown_workload_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--cell", "videos=1,2"])
    assert "'videos=1,2' is no WORKLOAD=RATE,...; workloads: document" in capsys.readouterr().err
