from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from preble_plugin.service.run_dir import (
    RunDirError,
    ServerDirectory,
    base_directory,
    living_servers,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PREBLE_RUN_DIR": "/a", "XDG_RUNTIME_DIR": "/b"}, "/a"),
        ({"XDG_RUNTIME_DIR": "/b"}, "/b/preble"),
        ({}, f"/tmp/preble-{os.getuid()}"),
    ],
)
def test_the_base_is_what_the_environment_says(environment: dict[str, str], expected: str) -> None:
    assert base_directory(environment) == Path(expected)


def test_directories_are_the_users_alone(run_dir: Path) -> None:
    server = ServerDirectory(run_dir / "new" / "run")
    assert [mode(run_dir / "new" / "run"), mode(server.path)] == [0o700, 0o700]
    server.remove()


def test_a_living_server_is_found_and_a_removed_one_is_not(run_dir: Path) -> None:
    first, second = ServerDirectory(), ServerDirectory()
    assert set(living_servers()) == {first.path, second.path}
    first.remove()
    first.remove()
    assert living_servers() == [second.path]
    second.remove()


def test_no_run_directory_means_no_servers(tmp_path: Path) -> None:
    assert living_servers(tmp_path / "none") == []


def test_the_directory_of_a_killed_process_is_removed_by_the_next_server(run_dir: Path) -> None:
    code = (
        "import os, signal\n"
        "from preble_plugin.service.run_dir import ServerDirectory\n"
        "kept = ServerDirectory()\n"
        "(kept.path / 'admin.sock').touch()\n"
        "print(kept.path, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False)
    left_over = Path(killed.stdout.decode().strip())
    assert left_over.exists()
    assert living_servers() == []
    ServerDirectory().remove()
    assert not left_over.exists()


def test_a_directory_being_made_is_left_alone(run_dir: Path) -> None:
    being_made = run_dir / "1-abc"
    being_made.mkdir()
    ServerDirectory().remove()
    assert being_made.exists()


def test_what_is_no_server_directory_is_left_alone(run_dir: Path) -> None:
    (run_dir / "notes").mkdir()
    (run_dir / "12-file").touch()
    ServerDirectory().remove()
    assert sorted(path.name for path in run_dir.iterdir()) == ["12-file", "notes"]


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(RunDirError, match=r"it is a link.*set PREBLE_RUN_DIR"):
        ServerDirectory(tmp_path / "link")


def test_a_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunDirError, match="cannot be used"):
        living_servers(tmp_path / "link")


def test_a_directory_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    with pytest.raises(RunDirError, match=r"others can use it \(mode 755\)"):
        ServerDirectory(tmp_path / "open")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", 12345, -1)
    with pytest.raises(RunDirError, match="it belongs to user 12345"):
        ServerDirectory(tmp_path / "theirs")


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirError, match="set PREBLE_RUN_DIR"):
        ServerDirectory(tmp_path / "file")


def test_a_path_too_long_for_a_socket_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"bytes.*set PREBLE_RUN_DIR to a shorter"):
        ServerDirectory(tmp_path / ("x" * 100))
