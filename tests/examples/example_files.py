"""What the files in examples/ say: documents, pods, and the commands that they run.

A command is what a process is started with in the end: entry points before it, variables
in it replaced as Docker, Kubernetes and systemd do.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tests.engines import ROOT

EXAMPLES: Final = ROOT / "examples"
COMPOSE: Final = sorted((EXAMPLES / "compose").glob("*.yaml"))
KUBERNETES: Final = sorted((EXAMPLES / "kubernetes").glob("*.yaml"))
UNITS: Final = sorted((EXAMPLES / "systemd").glob("*.service"))
DOCKERFILES: Final = sorted((EXAMPLES / "compose").glob("*.Dockerfile"))

PROGRAMS: Final = {
    "vllm": ("vllm", "serve"),
    "sglang": ("python3", "-m", "sglang.launch_server"),
    "preble": ("preble", "serve"),
}
"""How the commands begin, by program."""


@dataclass(frozen=True)
class Command:
    """What a process is started with."""

    where: str
    words: tuple[str, ...]
    image: str | None = None

    def __str__(self) -> str:
        return self.where

    @property
    def program(self) -> str:
        """One of `PROGRAMS`."""
        (found,) = [
            name for name, begin in PROGRAMS.items() if self.words[: len(begin)] == begin
        ] or [f"no known program: {self.words}"]
        return found

    @property
    def arguments(self) -> list[str]:
        """What comes after the program."""
        return list(self.words[len(PROGRAMS[self.program]) :])


@dataclass(frozen=True)
class Pod:
    """A pod template, and where it stands."""

    where: str
    template: dict[str, Any]
    group: Mapping[str, str]
    """Variables that the LeaderWorkerSet gives its containers."""

    @property
    def labels(self) -> dict[str, str]:
        found: dict[str, str] = self.template["metadata"]["labels"]
        return found

    @property
    def container(self) -> dict[str, Any]:
        """Its only one."""
        (found,) = self.template["spec"]["containers"]
        assert isinstance(found, dict)
        return found

    @property
    def command(self) -> Command:
        box = self.container
        given = {one["name"]: one.get("value", "127.0.0.1") for one in box.get("env", ())}
        variables = {**self.group, **given}
        words = [
            re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], word)
            for word in (*box["command"], *box["args"])
        ]
        return Command(self.where, tuple(words), box["image"])


def documents(path: Path) -> list[dict[str, Any]]:
    """The YAML documents of a file."""
    return list(yaml.safe_load_all(path.read_text()))


def objects(kind: str) -> list[dict[str, Any]]:
    """What there is of this kind in all of examples/kubernetes."""
    return [one for path in KUBERNETES for one in documents(path) if one["kind"] == kind]


def pods() -> Iterator[Pod]:
    """Every pod template of examples/kubernetes; of a group its leader and a worker."""
    for path in KUBERNETES:
        for one in documents(path):
            where = f"{path.name} {one['metadata']['name']}"
            if one["kind"] == "Deployment":
                yield Pod(where, one["spec"]["template"], {})
            elif one["kind"] == "LeaderWorkerSet":
                group = one["spec"]["leaderWorkerTemplate"]
                for index, role in enumerate(("leader", "worker")):
                    given = {
                        "LWS_LEADER_ADDRESS": "127.0.0.1",
                        "LWS_GROUP_SIZE": str(group["size"]),
                        "LWS_WORKER_INDEX": str(index),
                    }
                    yield Pod(f"{where} {role}", group[f"{role}Template"], given)


def commands() -> list[Command]:
    """Every command of the examples."""
    found = [one.command for one in pods()]
    for path in COMPOSE:
        for name, service in documents(path)[0]["services"].items():
            entry = service.get("entrypoint") or _entry_point(path.parents[2], service)
            words = (*entry, *service["command"])
            found.append(Command(f"{path.name} {name}", words, service["image"]))
    for path in UNITS:
        found.append(Command(path.name, tuple(unit_command(path))))
    for path in sorted((EXAMPLES / "vllm").glob("*.yaml")):
        found.append(Command(f"vllm/{path.name}", (*PROGRAMS["vllm"], "--config", str(path))))
    for path in sorted((EXAMPLES / "sglang").glob("*.yaml")):
        found.append(Command(f"sglang/{path.name}", (*PROGRAMS["sglang"], "--config", str(path))))
    return found


def _entry_point(root: Path, service: Mapping[str, Any]) -> list[str]:
    """That of the image which a service builds."""
    lines = (root / service["build"]["dockerfile"]).read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("ENTRYPOINT ")]
    found: list[str] = yaml.safe_load(line.removeprefix("ENTRYPOINT "))
    return found


def unit_lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """Section, key and value of each line of a unit; lines are continued by a backslash."""
    section = ""
    for line in path.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            yield section, key, value


def unit_command(path: Path) -> list[str]:
    """A unit's ExecStart with the variables of its environment file; the program by name."""
    values = {key: value for _, key, value in unit_lines(path)}
    environment = {
        key: value
        for line in (path.parent / Path(values["EnvironmentFile"]).name).read_text().splitlines()
        if not line.startswith("#")
        for key, _, value in [line.partition("=")]
    }
    program, *words = values["ExecStart"].split()
    found = [Path(program).name]
    for word in words:
        if word.startswith("${"):
            found.append(environment[word.strip("${}")])
        elif word.startswith("$"):
            found += shlex.split(environment[word[1:]])
        else:
            found.append(word)
    return found
