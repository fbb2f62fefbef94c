import os
from pathlib import Path

import pytest

from preble_plugin.bench.sglang_server import CPU_ENVIRONMENT, cpu_environment
from tests.engines import STANDINS


def test_stand_ins_come_before_what_the_path_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    environment = cpu_environment(STANDINS)
    assert environment["PYTHONPATH"] == os.pathsep.join([str(STANDINS), "/elsewhere"])


def test_without_stand_ins_the_path_is_left_alone() -> None:
    assert cpu_environment() == CPU_ENVIRONMENT


def test_a_directory_without_stand_ins_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no stand-in for sgl_kernel"):
        cpu_environment(tmp_path)
