"""Writes docs/settings.md from the `Settings` struct and its docstrings.

`python -m preble_plugin.cli.settings_doc` prints the page, `--write PATH`
writes it. A test holds docs/settings.md equal to what this makes.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import textwrap
from pathlib import Path

from preble_plugin.settings import CONFIG_VARIABLE, Settings, what_it_takes

_HEAD = f"""\
<!-- Made from preble_plugin/settings.py by `python -m preble_plugin.cli.settings_doc`. -->
# Settings

None has to be set. They are given as JSON or as a file,

    --dp-scheduler-config '{{"policy": "e2", "window_seconds": 60}}'
    --dp-scheduler-config @preble.json

(YAML too, where pyyaml is installed: `@preble.yaml`), as the same keys in the
engine's own YAML configuration, or in the environment:

    {CONFIG_VARIABLE}='{{"policy": "e2"}}'    or    {CONFIG_VARIABLE}=@preble.json

What is given on the command line wins over the environment, key by key. An
unknown key or a wrong type is an error that names the key and what it takes.

| key | takes | default | |
|---|---|---|---|
"""


_TAIL = """
`record` and `shadow` in use: [shadow.md](shadow.md).
"""


def page() -> str:
    """The text of docs/settings.md."""
    rows = [
        f"| `{name}` | {what_it_takes(name)} | `{json.dumps(default)}` | {words} |"
        for (name, default), words in zip(
            _defaults().items(), _field_docstrings().values(), strict=True
        )
    ]
    return _HEAD + "\n".join(rows) + "\n" + _TAIL


def _defaults() -> dict[str, object]:
    defaults = Settings()
    return {name: getattr(defaults, name) for name in Settings.__struct_fields__}


def _field_docstrings() -> dict[str, str]:
    """The string that follows each field in the source, on one line."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(Settings)))
    body = tree.body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    name = None
    for statement in body.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
        elif name and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            found[name] = " ".join(str(statement.value.value).split())
            name = None
    return found


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description="Make docs/settings.md.")
    parser.add_argument("--write", metavar="PATH", type=Path)
    path = parser.parse_args().write
    if path is None:
        print(page(), end="")
    else:
        path.write_text(page())


if __name__ == "__main__":
    main()
