"""`preble doctor`: flags, exit codes, and what is printed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from preble_plugin.cli.doctor import report
from preble_plugin.cli.main import main
from preble_plugin.doctor.finding import Findings

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def own_run_dir(run_dir: Path) -> None:
    """No server of this user is there."""


def test_this_machine_without_importing_an_engine() -> None:
    program = (
        "import sys; from preble_plugin.cli.main import main; print('exit', main(['doctor'])); "
        "print({'vllm', 'sglang', 'torch', 'transformers', 'aiohttp'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "this machine"
    assert {"contract with vLLM", "contract with SGLang", "running servers"} <= set(lines)
    assert lines[-3].endswith("0 fail")
    assert lines[-2:] == ["exit 0", "set()"]


def test_a_failure_is_the_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREBLE_CONFIG", '{"polcy": "e2"}')
    assert main(["doctor"]) == 1
    assert "1 fail" in capsys.readouterr().out


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--url", f"{NOWHERE}/"]) == 1
    assert capsys.readouterr().out.startswith(f"{NOWHERE}\n  fail  answers: ")


def test_json_is_a_finding_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--url", NOWHERE, "--json"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert (found["about"], found["check"], found["state"]) == (NOWHERE, "answers", "fail")
    assert set(found) == {"about", "check", "state", "words", "remedy"}


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--probe"], "--probe goes with --url"),
        (["--tokenizer", "t"], "--tokenizer goes with --url"),
        (["--api-key-file", "f"], "--api-key-file goes with --url"),
        (["--url", "gpu-1:8000"], "is not http://HOST:PORT"),
        (["--url", "dns+http://gpu:8000"], "is not http://HOST:PORT"),
        (["--url", "http://me:5ec4e7@gpu:8000"], "--api-key-file"),
        (["--url", NOWHERE, "--api-key-file", "/no/such/file"], "/no/such/file: No such file"),
    ],
)
def test_flags_that_cannot_be_used(
    flags: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *flags]) == 2
    said = capsys.readouterr().err
    assert word in said
    assert "5ec4e7" not in said


def test_an_unknown_flag_is_a_bad_flag() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--cure"])
    assert ended.value.code == 2


def test_a_url_needs_what_http_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)  # as where it is not installed
    monkeypatch.delitem(sys.modules, "preble_plugin.doctor.server", raising=False)
    assert main(["doctor", "--url", NOWHERE]) == 1
    assert "pip install 'preble-plugin[serve]'" in capsys.readouterr().err


def test_a_report_is_by_what_it_is_about_with_remedies_beneath() -> None:
    here, there = Findings("here"), Findings("there")
    here.ok("one", "is well")
    there.fail("two", "is not", "do this")
    assert report([*here.all, *there.all]).splitlines() == [
        "here",
        "  ok    one: is well",
        "",
        "there",
        "  fail  two: is not",
        "        -> do this",
        "",
        "1 ok, 0 warn, 1 fail",
    ]
