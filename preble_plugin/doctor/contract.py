"""What the engines installed here keep of their contracts, touch by touch.

A process of its own imports the engine, which takes it seconds; here nothing is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from preble_plugin.adapter import contract as contracts
from preble_plugin.adapter.known import Known
from preble_plugin.doctor.engines import ENGINES
from preble_plugin.doctor.finding import Finding, Findings
from preble_plugin.doctor.machine import installed_version

_CHECK: Final = "contract"
_IMPORT: Final = "run this with the Python and the environment that start the engine"


def look_at_contracts(
    contract: Callable[[Known], list[tuple[str, str | None]]] = contracts.report,
) -> list[Finding]:
    """A finding for each touch of each engine that is installed."""
    here = [one.known for one in ENGINES if installed_version(one.known) is not None]
    with ThreadPoolExecutor() as pool:
        reports = [pool.submit(contract, known) for known in here]
    found: list[Finding] = []
    for known, report in zip(here, reports, strict=True):
        findings = Findings(f"contract with {known.title}")
        remedy = f"use {known.title} {known.versions}, or upgrade preble-plugin"
        try:
            for touch, fault in report.result():
                if fault is None:
                    findings.ok(_CHECK, touch)
                else:
                    findings.fail(_CHECK, f"{touch} {fault}", remedy)
        except RuntimeError as error:
            findings.warn(_CHECK, f"{known.title} cannot be imported here: {error}", _IMPORT)
        found += findings.all
    return found
