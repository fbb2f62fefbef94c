"""The comparison as one HTML file that opens anywhere: picture inside, no script."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from string import Template
from typing import Final

from preble_plugin.bench.result import Comparison
from preble_plugin.bench.table import Row, caption, headings, rows

_PAGE: Final = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Prefix-aware dispatch, measured</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; color: #22262b; max-width: 62rem;
         margin: 2.5rem auto; padding: 0 1rem; }
  h1 { font-size: 1.5rem; margin-bottom: .25rem; }
  p.caption { color: #6b747d; margin-top: 0; font-size: .9rem; }
  img { width: 100%; height: auto; margin: 1rem 0; }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
  th, td { padding: .4rem .8rem; text-align: right; border-bottom: 1px solid #e3e6e9; }
  th:first-child, td:first-child { text-align: left; }
  td.ratio { color: #0b7a75; font-weight: 600; }
  pre { background: #f4f5f6; padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; }
</style>
<h1>The same requests, the same engine, $count to dispatch</h1>
<p class="caption">$caption</p>
<img alt="Time to first token, work per replica and share from cache"
  src="data:image/png;base64,$picture">
<table>
<tr>$headings</tr>
$rows
</table>
<h2>Try it yourself</h2>
<pre>$commands</pre>
</html>
""")

_WAYS: Final = {1: "one way", 2: "two ways", 3: "three ways", 4: "four ways"}


def write(comparison: Comparison, picture: Path, path: Path, commands: str) -> None:
    """Write the page to `path`, with the picture inside and `commands` to type."""
    first = headings(comparison)
    path.write_text(
        _PAGE.substitute(
            caption=escape(caption(comparison)),
            picture=base64.b64encode(picture.read_bytes()).decode(),
            count=_WAYS.get(len(first.cells), f"{len(first.cells)} ways"),
            headings="".join(
                f"<th>{escape(cell)}</th>" for cell in (first.name, *first.cells, *first.ratios)
            ),
            rows="\n".join(map(_row, rows(comparison))),
            commands=escape(commands),
        ),
        encoding="utf-8",
    )


def _row(row: Row) -> str:
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in (row.name, *row.cells))
    ratios = "".join(f'<td class="ratio">{escape(ratio)}</td>' for ratio in row.ratios)
    return f"<tr>{cells}{ratios}</tr>"
