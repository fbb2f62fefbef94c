"""The units: what systemd says of them where it is there, and what they lean on."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from preble_plugin.serve.config import make_config, read_config
from tests.examples.example_files import EXAMPLES, UNITS, unit_command, unit_lines

EACH = pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)


def settings(path: Path) -> dict[str, str]:
    """The last value of each key."""
    return {key: value for _, key, value in unit_lines(path)}


@EACH
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_knows_each_key_and_value(path: Path, tmp_path: Path) -> None:
    """With the programs in a directory that is there."""
    for name in ("vllm", "preble"):
        shutil.copy("/bin/true", tmp_path / name)
    unit = tmp_path / path.name
    unit.write_text(path.read_text().replace("/opt/preble/bin", str(tmp_path)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True
    )
    said = [line for line in done.stderr.splitlines() if path.name in line or str(unit) in line]
    assert (done.returncode, said) == (0, [])


@EACH
def test_each_section_is_one_of_a_services(path: Path) -> None:
    assert {section for section, _, _ in unit_lines(path)} == {"Unit", "Service", "Install"}


@EACH
def test_a_unit_runs_without_privileges_in_directories_of_its_own(path: Path) -> None:
    found = settings(path)
    assert found["User"] != "root"
    hardened = {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "CapabilityBoundingSet": ""}
    assert hardened.items() <= found.items()
    # preble refuses a run directory that others can enter.
    assert found["RuntimeDirectoryMode"] == "0700"
    run_dir = f"PREBLE_RUN_DIR=/run/{found['RuntimeDirectory']}"
    assert ("Service", "Environment", run_dir) in list(unit_lines(path))


def test_requests_have_less_time_to_end_than_systemd_waits() -> None:
    engine, router = (EXAMPLES / "systemd" / f"preble-{name}.service" for name in ("vllm", "serve"))
    words = unit_command(engine)
    given = int(words[words.index("--shutdown-timeout") + 1])
    assert given < int(settings(engine)["TimeoutStopSec"])
    config = make_config(read_config(EXAMPLES / "serve" / "preble-serve.yaml"))
    assert config.drain_timeout_seconds < int(settings(router)["TimeoutStopSec"])
