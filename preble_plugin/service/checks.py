"""What settings name and this machine may not have, found before a server starts."""

from __future__ import annotations

import os

from preble_plugin.core.policies.registry import load_policy
from preble_plugin.service.recording import recording_path
from preble_plugin.settings import Settings, SettingsError


def check_settings(settings: Settings) -> None:
    """Raise `SettingsError` where the settings cannot be used on this machine. For the
    process that launches a server, before anything is started."""
    check_policy(settings)
    _check_record(settings)


def check_policy(settings: Settings) -> None:
    """Raise `SettingsError` where the settings' policy does not exist."""
    try:
        load_policy(settings.policy)
    except ValueError as error:
        raise SettingsError(f"preble setting 'policy': {error}") from error


def _check_record(settings: Settings) -> None:
    """Raise `SettingsError` where the setting `record` names no file that could be
    written."""
    if settings.record is None:
        return
    path = recording_path(settings.record)
    where = f"preble setting 'record': {settings.record!r}"
    if path.is_dir() or not settings.record:
        raise SettingsError(f"{where} names no file; give a path such as requests.jsonl")
    if path.suffix == ".gz":
        raise SettingsError(f"{where}: recordings are written plain; leave out .gz")
    if not path.parent.is_dir():
        raise SettingsError(f"{where}: there is no directory {str(path.parent)!r}; make it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise SettingsError(f"{where}: this user may not write there; name another path")
