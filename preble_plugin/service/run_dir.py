"""The run directory: where this user's servers keep sockets and snapshots.

1. The base is `$PREBLE_RUN_DIR`, else `$XDG_RUNTIME_DIR/preble`, else
   `/tmp/preble-<uid>`; mode 0700. One that is a link or belongs to another
   user is refused: whoever owns it could stand in for the scheduler.
2. Each server makes a directory of its own in it and holds a lock on a file
   there for as long as it lives. The kernel drops the lock with the process,
   so that a directory whose lock is free is stale, whatever its pid.
3. Stale directories are removed when the next server starts.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from preble_plugin.service.environment import RUN_DIR

SCHEDULER_SOCKET: Final = "scheduler.sock"
ADMIN_SOCKET: Final = "admin.sock"
_LOCK: Final = "lock"
_LONGEST_SOCKET_PATH: Final = 103
"""Bytes of a unix socket's path: 107 on Linux, 103 on macOS."""
_SETTLING_SECONDS: Final = 60.0
"""A directory without a lock file may be one that is being made."""


class RunDirError(RuntimeError):
    """The run directory cannot be used; the message says what to set."""


class ServerDirectory:
    """One server's directory, locked while the object, or its process, lives."""

    def __init__(self, base: Path | None = None) -> None:
        """Make it under `base` (by default the user's run directory), and
        remove stale ones. Raises `RunDirError`."""
        root = base if base is not None else base_directory()
        _make_private(root)
        _remove_stale(root)
        self.path = root / f"{os.getpid()}-{secrets.token_hex(3)}"
        check_socket_path(self.path / SCHEDULER_SOCKET)
        try:
            self.path.mkdir(mode=0o700)
            self._lock = _take_lock(self.path)
        except OSError as error:
            raise _unusable(root, str(error)) from error

    def remove(self) -> None:
        """Delete the directory and give up the lock; idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def base_directory(environment: Mapping[str, str] | None = None) -> Path:
    """Where this user's servers meet; not created."""
    variables = os.environ if environment is None else environment
    if given := variables.get(RUN_DIR):
        return Path(given)
    if runtime := variables.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "preble"
    return Path(f"/tmp/preble-{os.getuid()}")


def living_servers(base: Path | None = None) -> list[Path]:
    """Directories of this user's servers that live, oldest first.

    Raises `RunDirError` where the run directory cannot be trusted.
    """
    root = base if base is not None else base_directory()
    if not root.exists() and not root.is_symlink():
        return []
    _check_private(root)
    return [path for path in _server_directories(root) if _locked(path) is True]


def check_socket_path(path: Path) -> None:
    """Raise `RunDirError` where `path` is too long for a unix socket."""
    length = len(os.fsencode(path))
    if length > _LONGEST_SOCKET_PATH:
        raise RunDirError(
            f"the socket path {path} has {length} bytes, a unix socket takes "
            f"{_LONGEST_SOCKET_PATH}; set {RUN_DIR} to a shorter directory"
        )


def _take_lock(path: Path) -> int:
    """A descriptor that holds the lock. The file has its name only once it is
    locked, so that nobody finds it free meanwhile."""
    unnamed = path / f"{_LOCK}.new"
    lock = os.open(unnamed, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    unnamed.rename(path / _LOCK)
    return lock


def _make_private(root: Path) -> None:
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(root, str(error)) from error
    _check_private(root)


def _check_private(root: Path) -> None:
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise _unusable(root, "it is a link or a file")
    if found.st_uid != os.getuid():
        raise _unusable(root, f"it belongs to user {found.st_uid}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise _unusable(root, f"others can use it (mode {stat.S_IMODE(found.st_mode):o})")


def _unusable(root: Path, reason: str) -> RunDirError:
    return RunDirError(
        f"run directory {root} cannot be used: {reason}; "
        f"set {RUN_DIR} to a directory of your own with mode 0700"
    )


def _server_directories(root: Path) -> Iterator[Path]:
    found = []
    for path in root.iterdir():
        pid, dash, _ = path.name.partition("-")
        if dash and pid.isdigit() and not path.is_symlink() and path.is_dir():
            found.append((path.stat().st_mtime, path))
    return iter(path for _, path in sorted(found))


def _remove_stale(root: Path) -> None:
    for path in _server_directories(root):
        if _locked(path) is False:
            shutil.rmtree(path, ignore_errors=True)


def _locked(path: Path) -> bool | None:
    """Whether a living process holds the directory; None while that is not
    known because it is being made or removed."""
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        try:
            settled = time.time() - path.stat().st_mtime > _SETTLING_SECONDS
        except OSError:
            return None
        return False if settled else None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False
