"""The Docker Compose examples: the specification's own schema, and what they build."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.engines import ROOT
from tests.examples.example_files import COMPOSE, DOCKERFILES, documents


def checked(*paths: Path) -> subprocess.CompletedProcess[str]:
    """By the compose specification's schema, which check-jsonschema brings along."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    return subprocess.run([*command, *map(str, paths)], capture_output=True, text=True)


def services(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = documents(path)[0]["services"]
    return found


def test_each_file_is_one_that_compose_knows() -> None:
    done = checked(*COMPOSE)
    assert done.returncode == 0, done.stdout


def test_a_key_that_compose_does_not_know_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE[0].read_text().replace("restart:", "restarts:"))
    assert checked(wrong).returncode == 1


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_ports_are_open_to_this_machine_alone(path: Path) -> None:
    published = [port for one in services(path).values() for port in one.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_what_is_built_is_there(path: Path) -> None:
    for one in services(path).values():
        if "build" in one:
            context = (path.parent / one["build"]["context"]).resolve()
            assert context == ROOT
            assert (context / one["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_a_dockerfile_copies_is_a_package(path: Path, tmp_path: Path) -> None:
    """Without its compiled half, which is optional and slow to build."""
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    source.mkdir()
    for given in re.findall(r"^COPY (?!--)(.+)$", path.read_text(), re.MULTILINE):
        *names, target = given.split()
        for name in names:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.so")
                shutil.copytree(ROOT / name, source / target, ignore=ignored)
            else:
                shutil.copy(ROOT / name, source / target)
    alone = ("--no-deps", "--quiet", "--disable-pip-version-check")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *alone, "--wheel-dir", str(wheels), "."],
        cwd=source,
        env={**os.environ, "CC": "false"},
        check=True,
        timeout=120,
    )
    (wheel,) = wheels.iterdir()
    names = set(zipfile.ZipFile(wheel).namelist())
    needed = {"preble_plugin/cli/main.py", "preble_plugin/vllm_ext/plugin.py"}
    assert needed <= names
    assert any(name.endswith("entry_points.txt") for name in names)


def test_the_engine_that_is_built_upon_is_the_one_that_is_tested(
    tested_versions: dict[str, str],
) -> None:
    (path,) = [path for path in DOCKERFILES if path.name.startswith("engine.")]
    found = dict(
        re.findall(r"(?:ENGINE=)(vllm/vllm-openai|lmsysorg/sglang):v(\S+)", path.read_text())
    )
    assert found == {
        "vllm/vllm-openai": tested_versions["vllm"],
        "lmsysorg/sglang": tested_versions["sglang"],
    }
