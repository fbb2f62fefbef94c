from __future__ import annotations

import os
from pathlib import Path

import pytest

from preble_plugin.service.checks import check_settings
from preble_plugin.settings import Settings, SettingsError


def test_the_defaults_can_be_used() -> None:
    check_settings(Settings())


def test_a_policy_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"'policy'.*nonesuch"):
        check_settings(Settings(policy="nonesuch"))


@pytest.mark.parametrize("name", ["new.jsonl", "of-{pid}.jsonl", "old.jsonl"])
def test_a_file_that_can_be_written_is_taken(tmp_path: Path, name: str) -> None:
    (tmp_path / "old.jsonl").write_text("")
    check_settings(Settings(record=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "names no file"),
        ("nowhere/x.jsonl", "no directory .*/nowhere'; make it first"),
        ("x.jsonl.gz", "leave out .gz"),
    ],
)
def test_a_recording_that_could_not_be_written_is_refused(
    tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=f"'record'.*{message}"):
        check_settings(Settings(record=f"{tmp_path}/{name}"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_of_others_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SettingsError, match="may not write there"):
        check_settings(Settings(record=f"{tmp_path}/x.jsonl"))
