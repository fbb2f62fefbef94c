"""The options of the demo, and what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from preble_plugin.bench import page, picture
from preble_plugin.bench.demo import arguments_parser, main
from tests.bench.comparisons import comparison, run


def test_help_says_what_each_option_is_for() -> None:
    text = arguments_parser().format_help()
    assert "--repeat" in text
    assert "0.65 of capacity" in text


def test_a_missing_directory_of_stand_ins_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--engine", "sglang", "--standins", "/nowhere"])
    assert "no stand-in for sgl_kernel in /nowhere" in capsys.readouterr().err


def test_the_page_holds_a_column_for_each_side_and_each_ratio(tmp_path: Path) -> None:
    found = comparison(run("default", 0, 0.4), run("total", 0, 0.3), run("preble", 0, 0.1))
    picture.draw(found, tmp_path / "gain.png")
    page.write(found, tmp_path / "gain.png", tmp_path / "index.html", "make it & see")
    text = (tmp_path / "index.html").read_text()
    assert "three ways to dispatch" in text
    assert text.count("<th>") == 6
    assert "make it &amp; see" in text
