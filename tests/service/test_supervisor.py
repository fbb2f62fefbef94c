from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from service_builders import until_sync

from preble_plugin.service.admin import ServiceStatus, StatusQuestion, ask
from preble_plugin.service.environment import SEED
from preble_plugin.service.run_dir import RunDirError
from preble_plugin.service.supervisor import SchedulerProcess
from preble_plugin.settings import Settings, SettingsError


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def socket_of(address: str) -> Path:
    return Path(address.removeprefix("ipc://"))


def test_it_starts_and_stops_without_a_trace(process: SchedulerProcess, run_dir: Path) -> None:
    address = process.start(Settings(), run_dir)
    until_sync(socket_of(address).exists)
    pid = process.pid
    assert pid is not None
    process.stop()
    process.stop()
    assert not alive(pid)
    assert process.deaths == 0
    assert list(run_dir.iterdir()) == []


def test_it_cannot_be_started_twice(process: SchedulerProcess, run_dir: Path) -> None:
    process.start(Settings(), run_dir)
    with pytest.raises(RuntimeError, match="started already"):
        process.start(Settings(), run_dir)


def test_a_run_directory_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirError, match="PREBLE_RUN_DIR"):
        SchedulerProcess().start(Settings(), tmp_path / "file")


def test_a_policy_that_does_not_exist_is_refused_before_anything_starts(run_dir: Path) -> None:
    with pytest.raises(SettingsError, match=r"'policy'.*e2"):
        SchedulerProcess().start(Settings(policy="e3"), run_dir)
    assert list(run_dir.iterdir()) == []


def test_it_is_started_again_when_it_dies_and_each_death_is_told_once(
    process: SchedulerProcess, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = process.start(Settings(), run_dir)
    seeds = []
    for death in (1, 2):
        until_sync(socket_of(address).exists)
        pid = process.pid
        assert pid is not None
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        seeds += [one for one in environment if one.startswith(SEED.encode())]
        socket_of(address).unlink()
        os.kill(pid, signal.SIGKILL)
        until_sync(lambda pid=pid: process.pid not in (None, pid))
        assert process.deaths == death
    until_sync(socket_of(address).exists)
    assert caplog.text.count("the scheduler process ended") == 2
    assert len(set(seeds)) == 1


def test_the_seed_is_not_among_the_arguments(process: SchedulerProcess, run_dir: Path) -> None:
    process.start(Settings(), run_dir)
    arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    seed = process._environment[SEED]
    assert seed.encode() not in arguments


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_it_ends_with_its_parent(run_dir: Path, how: str) -> None:
    code = (
        "import signal, time\n"
        "from pathlib import Path\n"
        "from preble_plugin.service.supervisor import SchedulerProcess\n"
        "from preble_plugin.settings import Settings\n"
        "process = SchedulerProcess()\n"
        f"address = process.start(Settings(), Path({str(run_dir)!r}))\n"
        "print(process.pid, address, flush=True)\n"
        "signal.pause()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid, address = parent.stdout.readline().decode().split()
    until_sync(socket_of(address).exists)
    parent.send_signal(getattr(signal, how))
    parent.wait()
    parent.stdout.close()
    until_sync(lambda: not alive(int(pid)))


def test_it_ends_on_sigterm_and_leaves_no_snapshots(
    process: SchedulerProcess, run_dir: Path
) -> None:
    address = process.start(Settings(), run_dir)
    directory = socket_of(address).parent
    until_sync((directory / "admin.sock").exists)
    (directory / "x.residency").touch()
    pid = process.pid
    assert pid is not None
    process._stopping.set()  # so that it is not started again
    os.kill(pid, signal.SIGTERM)
    until_sync(lambda: not alive(pid))
    assert not list(directory.glob("*.residency"))


def test_an_interrupt_for_the_whole_terminal_is_left_to_its_parent(
    process: SchedulerProcess, run_dir: Path
) -> None:
    address = process.start(Settings(), run_dir)
    until_sync((socket_of(address).parent / "admin.sock").exists)
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGINT)
    assert isinstance(
        ask(socket_of(address).parent / "admin.sock", StatusQuestion()), ServiceStatus
    )
    assert process.pid == pid


def test_by_hand_it_says_how_it_is_started() -> None:
    environment = {key: value for key, value in os.environ.items() if key != SEED}
    run = subprocess.run(
        [sys.executable, "-m", "preble_plugin.service.server"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    assert run.returncode == 1
    assert b"started by SchedulerProcess" in run.stderr
