"""What this environment says before any server runs.

1. Each engine that is installed here: its version against the tested ones, whether it
   finds and loads our plugin, and the switches that keep placement out.
2. Ours: the compiled part, variables and settings, the run directory.

Nothing is imported of an engine, and nothing is made or changed. O(installed packages).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from collections.abc import Mapping
from importlib.machinery import PathFinder
from typing import Final

from preble_plugin.adapter.choice import SCHEDULER_VARIABLE, choose
from preble_plugin.adapter.known import Known
from preble_plugin.doctor.engines import ENGINES, PLUGIN, Engine
from preble_plugin.doctor.finding import Finding, Findings
from preble_plugin.service.checks import check_settings
from preble_plugin.service.environment import (
    RUN_DIR,
    SCHEDULER_ADDRESS,
    SEED,
    SERVER_DIR,
    SERVER_SETTINGS,
)
from preble_plugin.service.run_dir import (
    SCHEDULER_SOCKET,
    RunDirError,
    base_directory,
    check_socket_path,
    living_servers,
)
from preble_plugin.settings import CONFIG_VARIABLE, Settings, SettingsError, merge_settings
from preble_plugin.sglang_ext.launch_env import LAUNCH_VARIABLE

_USERS: Final = {SCHEDULER_VARIABLE, CONFIG_VARIABLE, RUN_DIR}
"""Variables that a user sets."""
_CHILDRENS: Final = {
    *(SCHEDULER_ADDRESS, SEED, SERVER_DIR, SERVER_SETTINGS),
    LAUNCH_VARIABLE,
}
"""Variables by which a server that starts tells its own processes."""
_COMPILED: Final = "preble_plugin.core._speed"
_LONGEST_PID: Final = 7


def look_here(environment: Mapping[str, str] | None = None) -> list[Finding]:
    """Findings about this machine, as a server started in `environment` (by default the
    process's own) would meet it."""
    variables = os.environ if environment is None else environment
    findings = Findings("this machine")
    _settings(findings, variables)
    installed = [
        (engine, version)
        for engine in ENGINES
        if (version := installed_version(engine.known)) is not None
    ]
    for engine, version in installed:
        _engine(findings, engine, version)
        _plugin(findings, engine, variables)
        _front_door(findings, engine, variables)
    if not installed:
        titles = " nor ".join(engine.title for engine in ENGINES)
        findings.warn(
            "engine",
            f"neither {titles} is installed in this environment",
            "run this with the Python that starts the engine; for `preble serve` none is needed",
        )
    _compiled(findings)
    _variables(findings, variables)
    _run_directory(findings, variables)
    return findings.all


def installed_version(known: Known) -> str | None:
    """An engine's version; "" where it is installed without one, None where it is not."""
    try:
        return importlib.metadata.version(known.package)
    except importlib.metadata.PackageNotFoundError:
        found = PathFinder.find_spec(known.package)  # on the path, not what is imported
        return "" if found is not None and found.origin is not None else None


def _engine(findings: Findings, engine: Engine, version: str) -> None:
    known = engine.known
    if not version:
        findings.warn(
            "version",
            f"{engine.title} is here and its version cannot be told",
            f"install it as a package, with its metadata ({known.package}.dist-info)",
        )
    elif known.tested(version):
        findings.ok("version", f"{engine.title} {version}; tested are {known.versions}")
    else:
        findings.warn(
            "version",
            f"{engine.title} {version} is not among the tested ones, {known.versions}",
            "it is served where its contract holds, see below; or take a tested one",
        )


def _plugin(findings: Findings, engine: Engine, variables: Mapping[str, str]) -> None:
    points = [
        point
        for point in importlib.metadata.entry_points(group=engine.plugins)
        if point.name == PLUGIN
    ]
    if not points:
        findings.fail(
            "plugin",
            f"{engine.title} finds no plugin {PLUGIN!r} in the entry points {engine.plugins}",
            "install preble-plugin into the environment that has the engine: "
            "pip install preble-plugin",
        )
        return
    try:
        points[0].load()
    except Exception as error:
        findings.fail(
            "plugin",
            f"{engine.title} cannot load the plugin: {type(error).__name__}: {error}",
            "install preble-plugin anew: pip install --force-reinstall preble-plugin",
        )
        return
    if not engine.lets_in(variables):
        findings.fail(
            "plugin",
            f"{engine.filter} in the environment keeps the plugin out of {engine.title}",
            f"add {PLUGIN} to the names in {engine.filter}, or unset it",
        )
        return
    findings.ok("plugin", f"{engine.title} finds and loads it")


def _front_door(findings: Findings, engine: Engine, variables: Mapping[str, str]) -> None:
    switch = engine.known.rust_switch
    if engine.known.rust(variables):
        findings.fail(
            "front door",
            f"{switch} starts {engine.title}'s Rust front door, which passes placement by",
            f"unset {switch}; or leave it, and put `preble serve` in front",
        )
    else:
        findings.ok("front door", f"{engine.title}'s Python one ({switch} is off)")


def _compiled(findings: Findings) -> None:
    try:
        importlib.import_module(_COMPILED)
    except ImportError:
        findings.warn(
            "compiled",
            "core/_speed is not built: Python and numpy do its work, more slowly",
            "install where there is a C compiler: pip install --force-reinstall --no-deps "
            "--no-binary preble-plugin preble-plugin",
        )
    else:
        findings.ok("compiled", "core/_speed is built")


def _settings(findings: Findings, variables: Mapping[str, str]) -> None:
    try:
        settings = merge_settings(None, variables)
        check_settings(settings)
        scheduler = choose({}, variables).scheduler
    except SettingsError as error:
        findings.fail("settings", str(error), "correct the variable, or unset it")
        return
    words = "the defaults" if settings == Settings() else f"changed by {CONFIG_VARIABLE}"
    findings.ok("settings", f"{words}; without the flag --dp-scheduler is {scheduler.value}")


def _variables(findings: Findings, variables: Mapping[str, str]) -> None:
    ours = {name for name in variables if name.startswith("PREBLE_")}
    if stray := sorted(ours & _CHILDRENS):
        findings.warn(
            "variables",
            f"{', '.join(stray)} set here: a server sets them for its own processes",
            f"unset {' '.join(stray)} before a server is started from here",
        )
    if unknown := sorted(ours - _CHILDRENS - _USERS):
        findings.warn(
            "variables",
            f"{', '.join(unknown)} set here: nothing reads them",
            f"there are {', '.join(sorted(_USERS))}; settings go into {CONFIG_VARIABLE}",
        )
    if not stray and not unknown:
        known = sorted(ours)
        findings.ok("variables", f"set here: {', '.join(known)}" if known else "none is set")


def _run_directory(findings: Findings, variables: Mapping[str, str]) -> None:
    base = base_directory(variables)
    try:
        living_servers(base)
        check_socket_path(base / f"{'9' * _LONGEST_PID}-abcdef" / SCHEDULER_SOCKET)
    except RunDirError as error:
        words, _, remedy = str(error).rpartition("; ")
        findings.fail("run directory", words, remedy)
        return
    there = next(path for path in (base, *base.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        findings.fail(
            "run directory",
            f"{base} cannot be used: this user may not write in {there}",
            f"set {RUN_DIR} to a directory of your own with mode 0700",
        )
        return
    made = "is there, and yours alone" if there == base else "will be made"
    findings.ok("run directory", f"{base} {made}")
