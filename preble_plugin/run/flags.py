"""What an engine's flags say, as far as a launch has to know, without its parser.

1. A flag is known by its names, written in full as `--name value` or `--name=value`; `_`
   counts as `-`, as both engines read it. The last one counts.
2. `--config FILE` of the engines holds the same flags as YAML; those of the command line
   win.
3. Nothing else is looked at: what is not asked for here goes to the engine as it stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final


class RunError(ValueError):
    """What cannot be run; the message says what is wrong and the remedy."""


_CONFIG: Final = "--config"


class Flags:
    """The flags after `--`, and the file that they name. Raises `RunError`."""

    def __init__(self, given: Sequence[str]) -> None:
        self.given = tuple(given)
        self._file: dict[str, str] = {}
        path = self._said((_CONFIG,))
        if path:
            self._file = _read(Path(path))

    def text(self, names: Sequence[str]) -> str | None:
        """The value of the flag with these names; "" where it has none, None where it is
        not given. One that is false in the file is not given."""
        said = self._said(names)
        if said is not None:
            return said
        return next((self._file[name] for name in names if name in self._file), None)

    def number(self, names: Sequence[str]) -> int | None:
        """The same as a whole number from 1."""
        text = self.text(names)
        if text is None:
            return None
        if not text.isdecimal() or int(text) < 1:
            raise RunError(f"{names[0]} takes a number from 1 on, got {text!r}")
        return int(text)

    def first(self, names: Sequence[str]) -> str | None:
        """Which of these flags is given, as far as one is."""
        return next((name for name in names if self.text((name,)) is not None), None)

    def _said(self, names: Sequence[str]) -> str | None:
        found = None
        for place, one in enumerate(self.given):
            name, equals, value = one.partition("=")
            if dashed(name) not in names:
                continue
            after = self.given[place + 1] if place + 1 < len(self.given) else ""
            found = value if equals else "" if after.startswith("--") else after
        return found


def dashed(name: str) -> str:
    """A flag's name as both engines read it."""
    return "--" + name[2:].replace("_", "-") if name.startswith("--") else name


def _read(path: Path) -> dict[str, str]:
    """The flags in an engine's configuration file."""
    try:
        import yaml

        found = yaml.safe_load(path.read_text("utf-8"))
    except ImportError:
        raise RunError(f"reading {str(path)!r} needs pyyaml: pip install pyyaml") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"{_CONFIG} {str(path)!r} cannot be read: {error}") from None
    if not isinstance(found, Mapping):
        raise RunError(f"{_CONFIG} {str(path)!r} holds no keys; write `tensor-parallel-size: 2`")
    return {
        dashed(f"--{key}"): "" if value is True or value is None else _text(value)
        for key, value in found.items()
        if value is not False
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
