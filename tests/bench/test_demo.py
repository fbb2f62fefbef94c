"""The options of the demo."""

from __future__ import annotations

from preble_plugin.bench.demo import arguments_parser


def test_help_says_what_each_option_is_for() -> None:
    text = arguments_parser().format_help()
    assert "--repeat" in text
    assert "0.65 of capacity" in text
