"""The arrows of docs/architecture.md: who may import whom, read from the source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "preble_plugin"

ADAPTERS = {"vllm_ext": "vllm", "sglang_ext": "sglang", "ray_ext": "ray"}
TOUCHES = {"vllm_ext": "hooks.py", "sglang_ext": "hooks.py", "ray_ext": "router.py"}
ENGINES = {"vllm", "sglang", "ray", "torch", "transformers"}
TOKENIZES = "serve/tokenizer.py"
IMPURE = {
    "asyncio",
    "http",
    "multiprocessing",
    "os",
    "pathlib",
    "select",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "zmq",
}


def arrows() -> dict[str, set[str]]:
    """`room -> rooms it may import`, from the table in docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", text, re.MULTILINE)
    return {room: set(re.findall(r"`(\w+)`", cells)) for room, cells in rows}


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> set[str]:
    """Absolute names of all modules a file imports, wherever it does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCES
}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    room = room_of(path)
    allowed = arrows()
    if room == "__init__":
        allowed[room] = set()
    assert room in allowed, f"docs/architecture.md has no row for the room {room!r}"
    used = {
        room_of(MODULES[name])
        for name in imports(path)
        if name.startswith("preble_plugin.") and name in MODULES
    }
    assert used - {room, "__init__"} <= allowed[room]


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if room_of(path) == "core"],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_core_is_pure(path: Path) -> None:
    tops = {name.split(".")[0] for name in imports(path)}
    assert not tops & (IMPURE | ENGINES)


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if room_of(path) not in (*ADAPTERS, "bench")],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_engines_are_imported_by_their_adapters_alone(path: Path) -> None:
    tops = {name.split(".")[0] for name in imports(path)}
    if path.relative_to(PACKAGE).as_posix() == TOKENIZES:
        tops.remove("transformers")
    assert not tops & ENGINES


@pytest.mark.parametrize(("room", "engine"), ADAPTERS.items())
def test_private_engine_api_is_touched_in_one_file(room: str, engine: str) -> None:
    touching = {
        path.relative_to(PACKAGE).as_posix()
        for path in SOURCES
        if room_of(path) == room and any(name.split(".")[0] == engine for name in imports(path))
    }
    assert touching == {f"{room}/{TOUCHES[room]}"}


def test_every_room_of_the_table_stands() -> None:
    rooms = {room_of(path) for path in SOURCES} - {"__init__"}
    assert set(arrows()) == rooms
