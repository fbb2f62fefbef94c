from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from preble_plugin.cli.main import main
from preble_plugin.cli.simulate import Comparison
from preble_plugin.core.policies import registry
from preble_plugin.core.policies.e2 import RULES
from preble_plugin.core.policies.protocol import Choice, View
from preble_plugin.sim.hardware import load_hardware
from preble_plugin.sim.trace import write_trace
from preble_plugin.sim.workloads import make

SMALL = ("simulate", "--requests", "120", "--replicas", "2")


def preble(*arguments: str | Path) -> int:
    return main([str(each) for each in arguments])


def rows(out: str, heading: str) -> dict[str, list[str]]:
    """The table under a heading: the cells of each policy."""
    lines = out[out.index(heading) :].splitlines()[2:]
    table = lines[: lines.index("")]
    return {line.split()[0]: line.split()[1:] for line in table}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "recorded.jsonl"
    write_trace(path, make("tool", requests=80, rate=10, seed=1))
    return path


def test_a_table_compares_the_policies(capsys: pytest.CaptureFixture[str]) -> None:
    assert preble(*SMALL, "--workload", "tool", "--rate", "10", "--policy", "e2,round-robin") == 0
    out = capsys.readouterr().out
    assert out.startswith("2 x mistral-7b-a6000, 120 requests a run, seed 1; the first 10%")
    table = rows(out, "tool at 10 requests/s")
    assert list(table) == ["e2", "round-robin"]
    assert table["round-robin"][-1] == "1.00x"
    assert float(table["e2"][-1].rstrip("x")) == pytest.approx(
        float(table["round-robin"][2]) / float(table["e2"][2]), abs=0.01
    )


def test_workloads_and_rates_have_a_table_each_and_one_together(
    capsys: pytest.CaptureFixture[str],
) -> None:
    workloads = ("--workload", "tool,document", "--rate", "1,2")
    assert preble(*SMALL, *workloads, "--baseline", "e2") == 0
    out = capsys.readouterr().out
    headings = [line for line in out.splitlines() if line.endswith("requests/s")]
    assert headings == [
        f"{workload} at {rate} requests/s" for workload in ("tool", "document") for rate in (1, 2)
    ]
    together = rows(out, "all 4 together: times better than e2, geometric means")
    assert together["e2"] == ["1.00x"] * 5


def test_workloads_stand_beside_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    loads = ("--workload", "tool,hot", "--rate", "5,10", "--policy", "round-robin,e2")
    assert preble(*SMALL, *loads) == 0
    out = capsys.readouterr().out
    each = [float(rows(out, f"hot at {rate} requests/s")["e2"][-1].rstrip("x")) for rate in (5, 10)]
    by_workload = rows(out, "mean latency by workload: times better than round-robin")
    assert by_workload["round-robin"] == ["1.00x", "1.00x"]
    mean = (each[0] * each[1]) ** 0.5
    assert float(by_workload["e2"][1].rstrip("x")) == pytest.approx(mean, abs=0.02)
    assert rows(out, "p99 TTFT by workload").keys() == {"round-robin", "e2"}


def test_an_ablation_is_e2_without_each_of_its_rules(capsys: pytest.CaptureFixture[str]) -> None:
    load = ("--workload", "hot", "--rate", "20", "--policy", "round-robin")
    assert preble(*SMALL, *load, "--ablate") == 0
    table = rows(capsys.readouterr().out, "hot at 20 requests/s")
    assert list(table) == ["round-robin", "e2", *(f"e2-without-{rule}" for rule in RULES)]
    assert table["e2"][-1] == "1.00x"
    assert table["e2-without-replication"][:-1] != table["e2"][:-1]


def test_local_queues_stand_beside_the_engines_order(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "runs.json"
    load = ("--workload", "tool-zipf", "--rate", "30", "--policy", "round-robin,e2")
    assert preble(*SMALL, *load, "--local-queue", "off,on", "--json", path) == 0
    table = rows(capsys.readouterr().out, "tool-zipf at 30 requests/s")
    assert list(table) == ["round-robin", "round-robin+queue", "e2", "e2+queue"]
    assert table["round-robin"][-1] == "1.00x"
    assert float(table["round-robin+queue"][0]) < float(table["round-robin"][0])
    cells = json.loads(path.read_text())["cells"]
    assert [(one["policy"], one["local_queue"]) for one in cells] == [
        *(("round-robin", False), ("round-robin", True), ("e2", False), ("e2", True)),
    ]


def test_with_local_queues_alone_the_baseline_has_one_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    load = ("--workload", "tool", "--rate", "10", "--policy", "e2,round-robin")
    assert preble(*SMALL, *load, "--local-queue", "on") == 0
    table = rows(capsys.readouterr().out, "tool at 10 requests/s")
    assert list(table) == ["e2+queue", "round-robin+queue"]
    assert table["round-robin+queue"][-1] == "1.00x"


def test_without_a_rate_the_workload_has_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert preble(*SMALL, "--workload", "document", "--policy", "e2") == 0
    out = capsys.readouterr().out
    assert "rates: each workload's own" in out
    assert [line.split()[2] for line in out.splitlines() if line.endswith("requests/s")] == [
        "0.25",
        "0.5",
        "1",
    ]


def test_seeds_are_put_together(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "out" / "runs.json"
    load = ("--workload", "tool", "--rate", "10", "--seed", "1,2")
    assert preble(*SMALL, *load, "--policy", "e2", "--json", path) == 0
    written = msgspec.json.decode(path.read_bytes(), type=Comparison)
    latencies = [one.figures.mean_latency for one in written.cells if one.figures]
    mean = sum(latencies) / 2
    assert rows(capsys.readouterr().out, "tool at 10")["e2"][2] == f"{mean:.3f}"


def test_json_has_all_that_was_run(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    load = ("--workload", "tool", "--rate", "5,10", "--workload-option", "live=9")
    assert preble(*SMALL, *load, "--policy", "round-robin,e2", "--json", path) == 0
    document = json.loads(path.read_text())
    assert document["format"] == 1
    assert document["hardware"]["name"] == "mistral-7b-a6000"
    assert document["workload_options"] == {"tool": {"live": 9}}
    assert [(one["rate"], one["policy"], one["seed"]) for one in document["cells"]] == [
        (5, "round-robin", 1),
        (5, "e2", 1),
        (10, "round-robin", 1),
        (10, "e2", 1),
    ]
    figures = document["cells"][0]["figures"]
    assert (figures["requests"], figures["counted"]) == (120, 108)
    assert figures.keys() == {
        *("requests", "counted", "seconds", "arrivals_per_second"),
        *("mean_ttft", "p50_ttft", "p99_ttft", "mean_latency", "p50_latency", "p99_latency"),
        *("mean_time_per_output_token", "output_tokens_per_second"),
        *("cached_share", "exact_predictions", "branches"),
        *("replica_requests", "busy_shares", "mean_in_flight", "spread", "load"),
    }


def test_replicas_in_lockstep_wait_for_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    load = (*SMALL, "--workload", "document", "--rate", "0.5", "--policy", "e2")
    times = []
    for more in ((), ("--lockstep",)):
        assert preble(*load, *more) == 0
        out = capsys.readouterr().out
        assert out.startswith("2 x mistral-7b-a6000" + " in lockstep" * bool(more))
        times.append(float(rows(out, "document at 0.5")["e2"][2]))
    assert times[0] < times[1]


def test_runs_are_the_same_again(tmp_path: Path) -> None:
    written = []
    for name in ("one.json", "two.json"):
        path = tmp_path / name
        assert preble(*SMALL, "--workload", "agent", "--rate", "10", "--json", path) == 0
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_a_trace_comes_at_its_own_times(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert preble("simulate", "--trace", trace, "--replicas", "2") == 0
    out = capsys.readouterr().out
    assert "80 requests a run;" in out
    assert list(rows(out, "recorded at its own times")) == ["round-robin", "least-loaded", "e2"]


def test_a_trace_comes_at_a_rate(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert preble(*SMALL, "--trace", trace, "--rate", "4,8") == 0
    assert "recorded at 8 requests/s" in capsys.readouterr().out


def test_hardware_is_a_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = msgspec.structs.replace(load_hardware("mistral-7b-a100"), name="ours")
    path = tmp_path / "ours.json"
    path.write_bytes(msgspec.json.encode(ours))
    assert preble(*SMALL, "--workload", "tool", "--rate", "10", "--hardware", path) == 0
    assert capsys.readouterr().out.startswith("2 x ours, ")


def test_a_run_that_fails_is_told_beside_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = msgspec.structs.replace(load_hardware("mistral-7b-a6000"), kv_tokens=9000)
    path = tmp_path / "small.json"
    path.write_bytes(msgspec.json.encode(small))
    load = ("--workload", "document,tool", "--rate", "1", "--policy", "e2")
    assert preble(*SMALL, *load, "--hardware", path) == 1
    out, err = capsys.readouterr()
    assert rows(out, "document at 1")["e2"][-1] == "failed"
    assert rows(out, "tool at 1")["e2"][-1] == "1.00x"
    assert err.startswith("preble: document at 1 requests/s by e2, seed 1: request 'document-")


def test_the_bar_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert preble(*SMALL, "--workload", "tool", "--rate", "10") == 0


def test_an_interrupt_ends_it_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted:
        name = "interrupted"

        def choose(self, view: View) -> Choice:
            raise KeyboardInterrupt

    monkeypatch.setitem(registry.BUILT_IN, "interrupted", Interrupted)
    assert preble(*SMALL, "--workload", "tool", "--policy", "interrupted") == 130
    assert capsys.readouterr() == ("", "preble: interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--workload", "tols"), "no workload 'tols', did you mean 'tool'? There are: tool, "),
        (("--workload", "tool", "--policy", "e2,orakle"), "no policy 'orakle', did you mean 'ora"),
        (("--workload", "tool", "--hardware", "gpu"), "no hardware 'gpu': it is neither a file"),
        (("--workload", "tool", "--baseline", "dynamo"), "no policy to compare with among those"),
        (("--workload", "tool", "--workload-option", "lives=1"), "no option of these workloads"),
        (("--trace", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--policy", "e2"), "give --workload NAME or --trace FILE"),
    ],
)
def test_what_is_not_there_is_told_before_anything_runs(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preble("simulate", *arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("preble: ")
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("given", [("--seed", "2"), ("--workload-option", "live=2")])
def test_a_trace_takes_nothing_that_makes_workloads(
    given: tuple[str, str], trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert preble("simulate", "--trace", trace, *given) == 1
    assert f"{given[0]} is for workloads that are made" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--rate", "0", "takes rates above 0, in requests per second, got '0'"),
        ("--rate", "fast", "takes rates above 0, in requests per second, got 'fast'"),
        ("--seed", "-1", "takes whole numbers of 0 or more, got '-1'"),
        ("--replicas", "0", "takes a whole number of 1 or more, got '0'"),
        ("--warm-up", "1", "takes a share from 0 to below 1, got '1'"),
        ("--workload-option", "live", "takes KEY=VALUE, got 'live'"),
        ("--policy", ",", "names nothing"),
        ("--local-queue", "off,yes", "takes off, on, or both, got 'off,yes'"),
    ],
)
def test_a_number_that_cannot_be_is_refused(
    option: str, value: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        preble("simulate", "--workload", "tool", f"{option}={value}")
    assert words in capsys.readouterr().err


def test_the_list_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert preble("simulate", "--list") == 0
    listed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "ToolBench" in listed["tool"]
    assert "live=256" in listed["tool"]
    assert listed["bound"].endswith("cached on all for ever")
    assert "Mistral-7B on one A6000" in listed["mistral-7b-a6000"]


def test_the_other_commands_start_without_the_simulator() -> None:
    code = (
        "import sys, preble_plugin.cli.main as main; main._parser(); "
        "print([name for name in sys.modules if name.startswith('preble_plugin.sim')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
