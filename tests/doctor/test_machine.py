"""Findings about an environment: packages as they lie on the path, variables as they are set."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from preble_plugin.doctor.finding import Finding
from preble_plugin.doctor.machine import look_here
from tests.doctor.told import bad, states, the

POINTS = (
    "[vllm.general_plugins]\npreble = preble_plugin.vllm_ext.plugin:register\n"
    "[sglang.srt.plugins]\npreble = preble_plugin.sglang_ext.plugin:register\n"
)


class Site:
    """A directory with the packages of an environment, alone on the path while looked at."""

    def __init__(self, path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path = path
        self._run_dir = run_dir
        self._monkeypatch = monkeypatch

    def look(
        self,
        environment: dict[str, str] | None = None,
        points: str = POINTS,
        **packages: str,
    ) -> list[Finding]:
        """Findings where these versions of packages are installed, and ours has `points`."""
        for name, version in {"preble_plugin": "9", **packages}.items():
            info = self._path / f"{name}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
            if name == "preble_plugin":
                (info / "entry_points.txt").write_text(points)
        given = {"PREBLE_RUN_DIR": str(self._run_dir), **(environment or {})}
        with self._monkeypatch.context() as patched:
            patched.setattr(sys, "path", [str(self._path)])
            return look_here(given)


@pytest.fixture
def site(tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, run_dir / "run", monkeypatch)


def test_all_is_well(site: Site) -> None:
    findings = site.look(vllm="0.32.0+cpu", sglang="0.5.23")
    assert bad(findings) == {}
    assert states(findings, "plugin") == ["ok", "ok"]


def test_no_engine(site: Site) -> None:
    findings = site.look()
    assert bad(findings) == {"engine": "warn"}
    assert "version" not in {one.check for one in findings}


def test_no_engine_where_this_process_has_imported_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = ModuleType("vllm")
    imported.__spec__ = ModuleSpec("vllm", None, origin="elsewhere")
    monkeypatch.setitem(sys.modules, "vllm", imported)
    assert bad(site.look()) == {"engine": "warn"}


def test_an_engine_without_a_version(site: Site, tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    assert bad(site.look()) == {"engine": "warn"}  # a directory of that name is no engine
    (tmp_path / "vllm" / "__init__.py").touch()
    sys.path_importer_cache.clear()
    for info in tmp_path.glob("*.dist-info"):
        for file in info.iterdir():
            file.unlink()
        info.rmdir()
    assert bad(site.look()) == {"version": "warn"}


@pytest.mark.parametrize(
    ("package", "version"),
    [("vllm", "0.27.1"), ("vllm", "0.34.0"), ("sglang", "0.5.17"), ("sglang", "0.6.0")],
)
def test_a_version_that_is_not_tested(site: Site, package: str, version: str) -> None:
    found = the(site.look(**{package: version}), "version")
    assert found.state == "warn"
    assert version in found.words
    assert found.remedy is not None
    assert found.remedy.startswith("it is served where its contract holds")


def test_an_engine_that_does_not_find_the_plugin(site: Site) -> None:
    assert bad(site.look(points="", vllm="0.32.0")) == {"plugin": "fail"}


def test_a_plugin_that_cannot_be_loaded(site: Site) -> None:
    points = POINTS.replace("vllm_ext.plugin", "vllm_ext.no_such_module")
    findings = site.look(points=points, vllm="0.32.0", sglang="0.5.23")
    assert states(findings, "plugin") == ["fail", "ok"]


def test_a_filter_that_keeps_the_plugin_out(site: Site) -> None:
    found = the(site.look({"VLLM_PLUGINS": "lora_resolver"}, vllm="0.32.0"), "plugin")
    assert (found.state, found.remedy) == (
        "fail",
        "add preble to the names in VLLM_PLUGINS, or unset it",
    )


@pytest.mark.parametrize(
    ("package", "version", "switch"),
    [("vllm", "0.32.0", "VLLM_USE_RUST_FRONTEND"), ("sglang", "0.5.23", "SGLANG_RUST_SERVER")],
)
def test_a_rust_front_door(site: Site, package: str, version: str, switch: str) -> None:
    findings = site.look({switch: "1"}, **{package: version})
    assert bad(findings) == {"front door": "fail"}
    assert switch in the(findings, "front door").words


def test_no_compiled_part(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "preble_plugin.core._speed", None)  # as where it is not built
    assert bad(site.look(vllm="0.32.0")) == {"compiled": "warn"}


@pytest.mark.parametrize(
    ("environment", "word"),
    [
        ({"PREBLE_CONFIG": '{"polcy": "e2"}'}, "polcy"),
        ({"PREBLE_CONFIG": '{"policy": "e3"}'}, "e3"),
        ({"PREBLE_CONFIG": '{"record": "/no/such/directory/r.jsonl"}'}, "/no/such/directory"),
        ({"PREBLE_DP_SCHEDULER": "prebel"}, "prebel"),
    ],
)
def test_settings_that_cannot_be_used(site: Site, environment: dict[str, str], word: str) -> None:
    findings = site.look(environment, vllm="0.32.0")
    assert bad(findings) == {"settings": "fail"}
    assert word in the(findings, "settings").words


def test_what_the_environment_chooses_is_said(site: Site) -> None:
    findings = site.look({"PREBLE_DP_SCHEDULER": "auto"}, vllm="0.32.0")
    assert the(findings, "settings").words.endswith("--dp-scheduler is auto")


def test_variables_of_a_servers_own_processes_and_none_of_ours(site: Site) -> None:
    findings = site.look({"PREBLE_SEED": "5ec4e7", "PREBLE_CONFG": "{}"}, vllm="0.32.0")
    assert states(findings, "variables") == ["warn", "warn"]
    said = " ".join(f"{one.words} {one.remedy}" for one in findings)
    assert "PREBLE_SEED" in said
    assert "PREBLE_CONFG" in said
    assert "5ec4e7" not in said


def test_a_run_directory_that_others_can_use(site: Site, run_dir: Path) -> None:
    (run_dir / "run").mkdir(mode=0o777)
    (run_dir / "run").chmod(0o777)
    found = the(site.look(vllm="0.32.0"), "run directory")
    assert found.state == "fail"
    assert "mode 777" in found.words
    assert found.remedy is not None
    assert found.remedy.startswith("set PREBLE_RUN_DIR")


def test_a_run_directory_that_cannot_be_made(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = {"PREBLE_RUN_DIR": str(tmp_path / "file" / "run")}
    assert bad(site.look(environment, vllm="0.32.0")) == {"run directory": "fail"}


def test_a_run_directory_whose_sockets_have_too_long_a_path(site: Site, tmp_path: Path) -> None:
    environment = {"PREBLE_RUN_DIR": str(tmp_path / ("d" * 100))}
    found = the(site.look(environment, vllm="0.32.0"), "run directory")
    assert found.state == "fail"
    assert found.remedy == "set PREBLE_RUN_DIR to a shorter directory"


def test_a_run_directory_that_is_there(site: Site, run_dir: Path) -> None:
    (run_dir / "run").mkdir(mode=0o700)
    assert the(site.look(vllm="0.32.0"), "run directory").words.endswith("yours alone")
