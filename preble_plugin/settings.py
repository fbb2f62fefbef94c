"""Every setting, in one struct.

1. They come as JSON or `@file` from `--dp-scheduler-config`, as the same keys
   in an engine's YAML, from the environment (`PREBLE_CONFIG`), or from Python.
2. What is given explicitly wins over the environment, key by key.
3. A key that does not exist or a value of a wrong type is refused by name,
   with what it takes.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

CONFIG_VARIABLE: Final = "PREBLE_CONFIG"
"""Environment variable with settings as JSON or `@file`."""

_OnOff = Literal["auto", "on", "off"]

SettingsSource = str | Mapping[str, object] | None


class SettingsError(ValueError):
    """Settings that cannot be used; the message names the key and the remedy."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Settings of the placement. Defaults need no tuning."""

    policy: str = "e2"
    """Placement policy, by its name in the entry-point group `preble.policies`."""
    window_seconds: Annotated[float, Meta(ge=1, le=86_400)] = 180.0
    """The window H over which use of prefixes and work is counted, in seconds."""
    receipts: Annotated[int, Meta(ge=0, le=10_000_000)] = 10_000
    """How many decisions `preble explain` can look back."""
    max_tree_blocks: Annotated[int, Meta(ge=1)] = 8_000_000
    """Bound on the blocks the prefix tree keeps, over all replicas; a pool that they share
    adds at most a quarter."""
    snapshot_blocks: Annotated[int, Meta(ge=0)] = 1_000_000
    """Bound on the blocks per replica that are kept outside the scheduler
    process, to refill it after a restart; 0 keeps none."""
    placement_deadline_seconds: Annotated[float, Meta(gt=0, le=60)] = 0.05
    """How long a front end waits for the scheduler process before the engine's
    own dispatch takes the request."""
    admin_socket: str | None = None
    """Path of the local socket that `preble explain` and `preble status` talk
    to; by default one in the run directory."""
    record: str | None = None
    """Path of a file to which each request is appended when it has ended, for
    `preble simulate --trace`; `{pid}` in it stands for the id of the process."""
    record_megabytes: Annotated[int, Meta(ge=1)] = 1000
    """Size of that file at which recording stops."""
    shadow: bool = False
    """Decide and record, do not act: the engine's own dispatch sends the requests."""
    local_queue: _OnOff = "auto"
    """The order in which each rank takes up what waits: cached work first, within a
    bound. `auto` is on where the ranks cache prefixes, and off under `shadow`."""


def load_settings(value: SettingsSource) -> Settings:
    """Settings from JSON text, from `@file` (JSON, or YAML where pyyaml is
    installed), or from a mapping; None gives the defaults.

    Raises `SettingsError`.
    """
    return _to_settings(_read(value))


def merge_settings(
    explicit: SettingsSource, environment: Mapping[str, str] | None = None
) -> Settings:
    """Settings as `load_settings` reads them, where what `explicit` leaves out
    comes from `PREBLE_CONFIG` in `environment` (by default the process's own).

    Raises `SettingsError`, naming the variable where the fault is there.
    """
    variables = os.environ if environment is None else environment
    try:
        inherited = _read(variables.get(CONFIG_VARIABLE) or None)
        _to_settings(inherited)
    except SettingsError as error:
        raise SettingsError(f"{CONFIG_VARIABLE} in the environment: {error}") from error
    return _to_settings(inherited | _read(explicit))


def what_it_takes(name: str) -> str:
    """In words, the values that the setting `name` takes."""
    hint = get_type_hints(Settings, include_extras=True)[name]
    bounds: list[str] = []
    if get_origin(hint) is Annotated:
        hint, meta = get_args(hint)
        for limit, words in ((meta.gt, "above"), (meta.ge, "from"), (meta.le, "up to")):
            if limit is not None:
                bounds.append(f"{words} {limit:,}".replace(",", "_"))
    words = {
        str: "a string",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str | None: "a string or null",
        _OnOff: "auto, on or off",
    }[hint]
    return " ".join([words, *bounds])


def _read(value: SettingsSource) -> dict[str, object]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    text = value.strip()
    if not text.startswith("@"):
        return _keys(_parse_json(text, "preble settings"), "preble settings")
    path = Path(text[1:]).expanduser()
    name = f"preble settings file {str(path)!r}"
    try:
        content = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"{name} cannot be read: {reason}; give @PATH of a JSON file") from None
    if path.suffix.lower() in (".yaml", ".yml"):
        return _keys(_parse_yaml(content, name), name)
    return _keys(_parse_json(content, name), name)


def _parse_json(text: str, name: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(
            f'{name}: not JSON ({error}); write it as {{"policy": "e2"}}, or name a file as @PATH'
        ) from None


def _parse_yaml(text: str, name: str) -> object:
    try:
        import yaml
    except ImportError:
        raise SettingsError(
            f"{name}: reading YAML needs pyyaml; install it or write the file as JSON"
        ) from None
    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise SettingsError(f"{name}: not YAML ({error})") from None


def _keys(value: object, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise SettingsError(
            f'{name}: takes an object of settings such as {{"policy": "e2"}}, '
            f"not {type(value).__name__}"
        )
    return value


def _to_settings(given: Mapping[str, Any]) -> Settings:
    known = Settings.__struct_fields__
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=2, cutoff=0.5)
            meant = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            raise SettingsError(
                f"unknown preble setting {key!r}; {meant}there are: {', '.join(known)}"
            )
    values = {}
    for key, value in given.items():
        if key == "local_queue" and isinstance(value, bool):
            value = "on" if value else "off"  # what YAML makes of the words on and off
        try:
            if isinstance(value, float) and not math.isfinite(value):
                raise msgspec.ValidationError
            values[key] = msgspec.convert({key: value}, Settings)
        except msgspec.ValidationError:
            raise SettingsError(
                f"preble setting {key!r} takes {what_it_takes(key)}, got {value!r}"
            ) from None
    return msgspec.structs.replace(
        Settings(), **{key: getattr(one, key) for key, one in values.items()}
    )
