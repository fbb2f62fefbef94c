from __future__ import annotations

import json
from pathlib import Path

import pytest

from preble_plugin.cli.settings_doc import page
from preble_plugin.settings import Settings, SettingsError, load_settings, merge_settings


def test_nothing_given_means_the_defaults() -> None:
    assert load_settings(None) == Settings()


@pytest.mark.parametrize(
    "source", ['{"policy": "round-robin", "window_seconds": 60}', " {\n}", {"window_seconds": 60}]
)
def test_json_text_and_mappings_are_read(source: object) -> None:
    settings = load_settings(source)  # type: ignore[arg-type]
    assert settings.window_seconds in (60.0, 180.0)
    assert isinstance(settings.window_seconds, float)


def test_a_json_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "preble.json").write_text('{"receipts": 5}')
    assert load_settings(f"@{tmp_path}/preble.json") == Settings(receipts=5)


def test_a_yaml_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "preble.yaml").write_text("policy: e2-paper\nshadow: true\n")
    expected = Settings(policy="e2-paper", shadow=True)
    assert load_settings(f"@{tmp_path}/preble.yaml") == expected


@pytest.mark.parametrize("word", ["on", "off", "auto"])
def test_the_local_queue_is_said_in_words_also_in_yaml(tmp_path: Path, word: str) -> None:
    (tmp_path / "preble.yaml").write_text(f"local_queue: {word}\n")
    assert load_settings(f"@{tmp_path}/preble.yaml").local_queue == word


def test_an_empty_yaml_file_means_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "preble.yml").write_text("# nothing yet\n")
    assert load_settings(f"@{tmp_path}/preble.yml") == Settings()


def test_an_unknown_key_is_refused_with_the_near_miss() -> None:
    with pytest.raises(SettingsError, match=r"'window_secs'.*did you mean 'window_seconds'"):
        load_settings({"window_secs": 3})


def test_an_unknown_key_that_resembles_nothing_lists_what_there_is() -> None:
    with pytest.raises(SettingsError, match=r"'zzz'; there are: policy, window_seconds"):
        load_settings('{"zzz": 1}')


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"window_seconds": "long"}, r"'window_seconds' takes a number from 1.*got 'long'"),
        ({"window_seconds": 0.99}, r"'window_seconds' takes a number from 1"),
        ({"window_seconds": float("inf")}, r"'window_seconds' takes a number from 1"),
        ({"window_seconds": float("nan")}, r"'window_seconds' takes a number from 1"),
        ({"window_seconds": True}, r"'window_seconds' takes a number from 1"),
        ({"receipts": -1}, r"'receipts' takes a whole number from 0"),
        ({"receipts": 1.5}, r"'receipts' takes a whole number"),
        ({"policy": 3}, r"'policy' takes a string, got 3"),
        ({"policy": None}, r"'policy' takes a string, got None"),
        ({"shadow": "yes"}, r"'shadow' takes true or false, got 'yes'"),
        ({"shadow": 1}, r"'shadow' takes true or false, got 1"),
        ({"record": True}, r"'record' takes a string or null, got True"),
        ({"record_megabytes": 0}, r"'record_megabytes' takes a whole number from 1, got 0"),
        ({"admin_socket": 1}, r"'admin_socket' takes a string or null"),
        ({"local_queue": "lpm"}, r"'local_queue' takes auto, on or off, got 'lpm'"),
        ({"local_queue": 1}, r"'local_queue' takes auto, on or off, got 1"),
        ({1: 2}, r"unknown preble setting 1"),
    ],
)
def test_a_wrong_value_is_refused_by_name_with_what_it_takes(
    given: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(given)


def test_a_missing_file_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"'/nowhere/preble.json' cannot be read: No such file"):
        load_settings("@/nowhere/preble.json")


def test_a_directory_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read: Is a directory"):
        load_settings(f"@{tmp_path}")


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load_settings(f"@{tmp_path}/x.json")


@pytest.mark.parametrize("text", ["policy=e2", "", "{", '{"policy": }', "[" * 100_000])
def test_what_is_not_json_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(SettingsError, match=r"not JSON .*or name a file as @PATH"):
        load_settings(text)


def test_a_file_that_is_not_yaml_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: [")
    with pytest.raises(SettingsError, match=r"x\.yaml.*not YAML"):
        load_settings(f"@{tmp_path}/x.yaml")


@pytest.mark.parametrize("text", ["[1]", "3", '"e2"', "null"])
def test_json_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="takes an object"):
        load_settings(text)


def test_what_is_explicit_wins_over_the_environment_key_by_key() -> None:
    environment = {"PREBLE_CONFIG": '{"policy": "round-robin", "receipts": 7}'}
    merged = merge_settings({"policy": "e2-paper"}, environment)
    assert merged == Settings(policy="e2-paper", receipts=7)


def test_the_environment_alone_is_enough() -> None:
    assert merge_settings(None, {"PREBLE_CONFIG": '{"receipts": 7}'}) == Settings(receipts=7)


@pytest.mark.parametrize("environment", [{}, {"PREBLE_CONFIG": ""}])
def test_an_empty_environment_changes_nothing(environment: dict[str, str]) -> None:
    assert merge_settings(None, environment) == Settings()


def test_a_fault_in_the_environment_names_the_variable() -> None:
    with pytest.raises(SettingsError, match=r"PREBLE_CONFIG in the environment: .*'polcy'"):
        merge_settings(None, {"PREBLE_CONFIG": '{"polcy": "e2"}'})


def test_settings_survive_their_own_json() -> None:
    import msgspec

    settings = Settings(policy="x", receipts=1, admin_socket="/tmp/a")
    assert load_settings(json.loads(msgspec.json.encode(settings))) == settings


def test_the_documentation_is_made_from_the_settings() -> None:
    written = Path(__file__).parent.parent / "docs" / "settings.md"
    remedy = "run: python -m preble_plugin.cli.settings_doc --write docs/settings.md"
    assert written.read_text() == page(), remedy
