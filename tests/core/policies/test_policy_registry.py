from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from builders import chosen, prompt, scheduler

from preble_plugin.core.policies.registry import (
    BUILT_IN,
    ENTRY_POINT_GROUP,
    load_policy,
    policy_names,
)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a distribution that registers one policy from a module's source."""

    def install(name: str, source: str) -> None:
        (tmp_path / "third_party_policy.py").write_text(source)
        info = tmp_path / "third_party-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[{ENTRY_POINT_GROUP}]\n{name} = third_party_policy:Policy\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "third_party_policy", raising=False)

    return install


LAST = """
from preble_plugin.core.policies.protocol import Choice

class Policy:
    name = "last"
    def choose(self, view):
        return Choice(len(view.candidates) - 1, "last")
"""


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_policy_answers_to_its_name(name):
    assert load_policy(name).name == name


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_load_is_a_policy_of_its_own(name):
    assert load_policy(name) is not load_policy(name)


def test_packaging_registers_every_built_in_policy_as_the_same_class():
    registered = {
        entry.name: entry.load()
        for entry in entry_points(group=ENTRY_POINT_GROUP)
        if entry.value.startswith("preble_plugin.")
    }

    assert registered == BUILT_IN


def test_a_policy_of_another_package_is_found_by_its_entry_point(installed):
    installed("last", LAST)

    assert chosen(scheduler(3, policy="last"), prompt(1, 1)) == (2, "last")
    assert "last" in policy_names()


def test_another_package_cannot_take_the_name_of_a_built_in_policy(installed):
    installed("e2", LAST)

    assert load_policy("e2").name == "e2"


@pytest.mark.parametrize(
    ("wrong", "meant"), [("e2_paper", "e2-paper"), ("least-load", "least-loaded"), ("E2", "e2")]
)
def test_an_unknown_name_is_an_error_with_the_near_misses(wrong, meant):
    with pytest.raises(ValueError, match=f"unknown policy '{wrong}'; did you mean '{meant}'"):
        load_policy(wrong)


def test_a_name_like_no_other_is_an_error_with_those_there_are():
    with pytest.raises(ValueError, match=r"unknown policy '' \(there are: dualmap, dynamo, e2, e2"):
        load_policy("")


def test_an_entry_point_that_cannot_be_imported_is_an_error_that_names_it(installed):
    installed("broken", "import a_module_that_is_not_there")

    with pytest.raises(ValueError, match=r"'broken' cannot be loaded .*third_party_policy:Policy"):
        load_policy("broken")


def test_an_entry_point_that_is_no_policy_is_an_error_that_names_it(installed):
    installed("empty", "class Policy:\n    name = 'empty'\n")

    with pytest.raises(ValueError, match=r"'empty' is no policy: .*third_party_policy:Policy"):
        load_policy("empty")


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_documentation_has_a_section_for_every_built_in_policy(name):
    page = (Path(__file__).parents[3] / "docs" / "policies.md").read_text()

    assert f"\n## `{name}`\n" in page
    assert f"\n| `{name}` |" in page
