"""`preble run` on the command line."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from preble_plugin.cli.main import main
from preble_plugin.cli.run import shown, split
from preble_plugin.run.engines import ENGINES, VLLM
from tests.engines import ROOT


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, run_dir: Path) -> None:
    """Two devices, an installed engine, and a run directory of the test's own."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for name in ("PREBLE_CONFIG", "PREBLE_DP_SCHEDULER", "VLLM_API_KEY", "VLLM_USE_RUST_FRONTEND"):
        monkeypatch.delenv(name, raising=False)
    known = VLLM.known._replace(package="pytest", oldest=(0,), newest=(999,))
    monkeypatch.setitem(ENGINES, "vllm", replace(VLLM, known=known))


def test_what_is_behind_the_dashes_is_the_engines() -> None:
    assert split(["run", "vllm", "--", "-tp", "2", "--", "x"]) == (
        ["run", "vllm"],
        ("-tp", "2", "--", "x"),
    )
    assert split(["explain", "--", "-id"]) == (["explain", "--", "-id"], ())


def test_a_dry_run_prints_a_line_that_a_shell_takes(capsys: pytest.CaptureFixture[str]) -> None:
    model = "a model's directory"
    arguments = ["--model", model, "--port", "9", "--dry-run", "--", "--hf-token", "secret"]
    assert main(["run", "vllm", *arguments]) == 0
    told = capsys.readouterr().out
    assert "secret" not in told
    assert shlex.split(told)[4:] == [
        *("serve", model, "--port", "9", "--data-parallel-size", "2"),
        *("--dp-scheduler", "preble", "--hf-token", "***"),
    ]


def test_a_dry_run_of_several_leaves_nothing(
    capsys: pytest.CaptureFixture[str], run_dir: Path
) -> None:
    assert main(["run", "vllm", "--model", "M", "--separate", "--dry-run"]) == 0
    first, second, router, config = capsys.readouterr().out.splitlines()
    assert first.startswith("CUDA_VISIBLE_DEVICES=0 PREBLE_DP_SCHEDULER=auto ")
    assert second.startswith("CUDA_VISIBLE_DEVICES=1 ")
    assert " preble_plugin.cli.main serve --config " in router
    assert '"port": 8000' in config
    assert list((run_dir / "events").iterdir()) == []


def test_secrets_are_not_shown() -> None:
    line = shown(
        ["vllm", "--api-key=k1", "--admin-api-key", "k2", "-x", "--ssl-keyfile-password=k3"]
    )
    assert line == "vllm '--api-key=***' --admin-api-key '***' -x '--ssl-keyfile-password=***'"
    assert shown(["vllm", "--api_key", "k1", "k2", "-tp", "2", "--hf_token=k3"]) == (
        "vllm --api_key '***' '***' -tp 2 '--hf_token=***'"
    )
    assert shown(["vllm", "--api-key", "-k1", "-x"]) == "vllm --api-key '***' -x"


def test_the_routers_file_is_used_and_checked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "router.yaml"
    path.write_text("port: 8123\nmetrics_port: 9123\n")
    told = ["run", "vllm", "--model", "M", "--separate", "--dry-run", "--router-config", str(path)]
    assert main(told) == 0
    shown = capsys.readouterr().out
    assert '"port": 8123' in shown
    assert '"metrics_port": 9123' in shown


@pytest.mark.parametrize(
    ("arguments", "file", "word"),
    [
        (["--separate"], "backends: [http://a:1]", "names backends"),
        (["--separate"], "nonsense: 1", "unknown key 'nonsense'"),
        (["--replicas", "2"], "metrics_port: 1", "there is no router: --separate starts one"),
    ],
)
def test_a_router_file_that_cannot_be_used_is_refused(
    arguments: list[str],
    file: str,
    word: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    path = tmp_path / "router.yaml"
    path.write_text(file)
    assert main(["run", "vllm", "--model", "M", *arguments, "--router-config", str(path)]) == 2
    assert word in capsys.readouterr().err


def test_a_port_that_is_taken_is_named_before_anything_starts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["run", "vllm", "--model", "M", "--separate", "--port", str(port)]) == 2
    assert f"cannot listen at 127.0.0.1, port {port}: Address already" in capsys.readouterr().err


def test_an_engine_that_is_not_installed_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = VLLM.known._replace(package="no_such_engine")
    monkeypatch.setitem(ENGINES, "vllm", replace(VLLM, known=known))
    assert main(["run", "vllm", "--model", "M"]) == 2
    assert "this Python has no vLLM" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--port", "70000"], ["--replicas", "0"], ["--replicas", "x"]])
def test_a_wrong_number_is_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "vllm", "--model", "M", *wrong])


def test_the_process_becomes_the_engine() -> None:
    """Its process, its streams, its exit code."""
    engine = "import os, sys; print(os.getpid(), sys.argv[1:]); sys.exit(7)"
    program = (
        "import sys\n"
        "from preble_plugin.cli.run import _become\n"
        "from preble_plugin.run.plan import Inside\n"
        f"_become(Inside((sys.executable, '-c', {engine!r}, 'M')), False)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    out, told = process.communicate(timeout=60)
    assert (process.returncode, out) == (7, f"{process.pid} ['M']\n")
    assert told.startswith(f"preble run: {sys.executable} -c ")
