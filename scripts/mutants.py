"""Mutation testing of `preble_plugin/core`: does a test fail where a line is wrong?

    python scripts/mutants.py                  400 mutants, drawn from all of core
    python scripts/mutants.py --sample 0       every mutant of core: some hours
    python scripts/mutants.py load eviction    every mutant of these modules
    python scripts/mutants.py --survivors      also print each survivor's line

1. mutmut's operators make the mutants. Its own runner leaves decorated functions
   alone, and core is full of properties, so the mutants are run here. Left out, as
   no behaviour depends on them: strings and `raise` (the wording of errors),
   annotations, `__slots__`, keywords of a class, `zip(strict=)`.
2. One run under coverage.py tells which tests execute which lines, and how long
   each test takes.
3. For each mutant a forked process imports the mutated source in place of the module
   and runs the tests of the mutated line, those named after the module first and then
   the quickest, up to the first failure and to `BUDGET_SECONDS` of tests. Hypothesis
   draws few examples. A mutant that runs out of time or memory is killed; a mutant that
   no test executes survives.

The tests see core in Python: the compiled `_speed` is not imported. Exits with 1 below
`PASS_SHARE`.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.util
import os
import pickle
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

import coverage
import libcst as cst
import msgspec  # noqa: F401  imported once here, not in each process
import numpy  # noqa: F401
import pytest
import pytest_asyncio.plugin  # noqa: F401
from hypothesis import Phase, settings
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation.file_mutation import MutationVisitor, OuterFunctionProvider
from mutmut.mutation.mutators import mutation_operators, operator_string
from mutmut.mutation.pragma_handling import IgnoredCode

ROOT: Final = Path(__file__).parents[1]
CORE: Final = ROOT / "preble_plugin" / "core"
TESTS: Final = ROOT / "tests" / "core"
NOT_RUN: Final = ("test_growth.py",)
"""Tests of memory, whose time is that of all others together."""
PASS_SHARE: Final = 0.85
SAMPLE: Final = 400
SEED: Final = 1
BUDGET_SECONDS: Final = 8.0
EXAMPLES: Final = 15
MEMORY_BYTES: Final = 4 << 30
OPERATORS: Final = [one for one in mutation_operators if one[1] is not operator_string]


class Mutant(NamedTuple):
    """One wrong version of one module."""

    module: str
    line: int
    lines: range
    """Whoever executes one of these lines may notice."""
    change: str
    source: str


class Lines(NamedTuple):
    """What the tests execute: tests by module and line, and seconds by test."""

    tests: dict[str, dict[int, set[str]]]
    seconds: dict[str, float]


# -- making mutants ----------------------------------------------------------------


class _Visitor(MutationVisitor):
    """mutmut's visitor, which also enters properties and notes where it is."""

    METADATA_DEPENDENCIES = (PositionProvider, OuterFunctionProvider, ParentNodeProvider)

    def __init__(self) -> None:
        super().__init__(OPERATORS, IgnoredCode(set(), set(), set()))
        self.places: list[tuple[int, range]] = []

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef):
            return False
        if isinstance(node, cst.Raise | cst.Decorator | cst.Annotation):
            return True
        if isinstance(node, cst.Arg):
            keyword = node.keyword.value if node.keyword is not None else ""
            return keyword == "strict" or isinstance(self._above(node), cst.ClassDef)
        if isinstance(node, cst.Assign):
            return _names(node) == {"__slots__"} or _calls(node.value) == "TypeVar"
        if isinstance(node, cst.AnnAssign):
            return "TypeAlias" in cst.Module([]).code_for_node(node.annotation.annotation)
        return bool(super()._skip_node_and_children(node))

    def _create_mutations(self, node: cst.CSTNode) -> None:
        before = len(self.mutations)
        super()._create_mutations(node)
        self.mutations[before:] = [
            one for one in self.mutations[before:] if not _changes_strict_alone(one)
        ]
        self.places += [self._place(node)] * (len(self.mutations) - before)

    def _above(self, node: cst.CSTNode) -> cst.CSTNode:
        return self.get_metadata(ParentNodeProvider, node)

    def _place(self, node: cst.CSTNode) -> tuple[int, range]:
        """The line of a node, and those whose execution executes it: its statement's, or
        the whole function's for a default."""
        line = self.get_metadata(PositionProvider, node).start.line
        inside = node
        while not isinstance(inside, cst.SimpleStatementLine | cst.FunctionDef | cst.Module):
            above = self._above(inside)
            if isinstance(above, cst.If | cst.While) and inside is above.test:
                break
            if isinstance(above, cst.For) and inside in (above.iter, above.target):
                break
            inside = above
        if isinstance(inside, cst.FunctionDef):
            inside = inside.body
        span = self.get_metadata(PositionProvider, inside)
        return line, range(span.start.line, span.end.line + 1)


def _names(node: cst.Assign) -> set[str]:
    return {one.target.value for one in node.targets if isinstance(one.target, cst.Name)}


def _calls(value: cst.BaseExpression) -> str:
    if isinstance(value, cst.Call) and isinstance(value.func, cst.Name):
        return value.func.value
    return ""


def _changes_strict_alone(mutation: Any) -> bool:
    before, after = mutation.original_node, mutation.mutated_node
    if not (isinstance(before, cst.Call) and isinstance(after, cst.Call)):
        return False
    values = [
        [one.value for one in call.args if one.keyword is None or one.keyword.value != "strict"]
        for call in (before, after)
    ]
    return len(values[0]) < len(before.args) and values[0] == values[1]


def mutants_of(module: str) -> Iterator[Mutant]:
    """All mutants of one module, in order of their lines."""
    source = path_of(module).read_text("utf-8")
    visitor = _Visitor()
    tree = MetadataWrapper(cst.parse_module(source)).visit(visitor)
    pairs = zip(visitor.mutations, visitor.places, strict=True)
    for mutation, (line, lines) in sorted(pairs, key=lambda pair: pair[1][0]):
        mutated = tree.deep_replace(mutation.original_node, mutation.mutated_node)
        code = tree.code_for_node
        change = f"{code(mutation.original_node)}  ->  {code(mutation.mutated_node)}"
        yield Mutant(module, line, lines, " ".join(change.split()), mutated.code)


def modules() -> list[str]:
    """The modules of core, as `load` or `policies.e2`."""
    found = sorted(path for path in CORE.rglob("*.py") if path.name != "__init__.py")
    return [".".join(path.relative_to(CORE).with_suffix("").parts) for path in found]


def path_of(module: str) -> Path:
    """Where its source is."""
    return CORE / (module.replace(".", "/") + ".py")


# -- processes -----------------------------------------------------------------------


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a mutant's source in place of its module, and no compiled part."""

    def __init__(self, mutant: Mutant | None) -> None:
        self._mutant = mutant

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name == "preble_plugin.core._speed":
            raise ImportError("mutants are of core in Python")
        if self._mutant is not None and name == f"preble_plugin.core.{self._mutant.module}":
            return importlib.util.spec_from_loader(name, self)
        return None

    def exec_module(self, module: Any) -> None:
        assert self._mutant is not None
        module.__file__ = str(path_of(self._mutant.module))
        exec(compile(self._mutant.source, module.__file__, "exec"), module.__dict__)


class _Seen:
    """A plugin that notes which lines each test executes, and its seconds."""

    def __init__(self) -> None:
        self._coverage = coverage.Coverage(data_file=None, include=[f"{CORE}/*"])
        self.lines = Lines({}, {})

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        self._coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self._coverage.switch_context(item.nodeid)
        started = time.process_time()
        outcome = yield
        self.lines.seconds[item.nodeid] = time.process_time() - started
        self._coverage.switch_context("")
        return outcome

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        for file in data.measured_files():
            module = ".".join(Path(file).relative_to(CORE).with_suffix("").parts)
            by_line = data.contexts_by_lineno(file)
            self.lines.tests[module] = {line: set(names) - {""} for line, names in by_line.items()}


def run_tests(tests: Sequence[str], *plugins: object) -> int:
    """pytest's exit status for these tests, in this process."""
    settings.register_profile(
        "mutants",
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
    )
    options = [
        *("-x", "-q", "--noconftest", "--hypothesis-profile=mutants", "-p", "no:cacheprovider"),
        *("-p", "_hypothesis_pytestplugin", "-p", "pytest_asyncio.plugin"),
        *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
    ]
    return int(pytest.main([*options, *tests], plugins=list(plugins)))


def forked(work: Callable[[], int]) -> int:
    """The id of a new process that does `work`, says nothing, and exits with its result."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setpgid(0, 0)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nowhere, stream)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        status = work()
    finally:
        os._exit(status)


def in_processes(
    jobs: Iterable[tuple[Any, Callable[[], int], float]], processes: int
) -> Iterator[tuple[Any, int | None]]:
    """Do jobs (name, work, seconds it may take) side by side; yields their names and
    statuses, None for one that took too long."""
    left = iter(jobs)
    running: dict[int, tuple[Any, float]] = {}
    while True:
        while len(running) < processes and (job := next(left, None)) is not None:
            name, work, seconds = job
            running[forked(work)] = name, time.monotonic() + seconds
        if not running:
            return
        child, status = os.waitpid(-1, os.WNOHANG)
        if child in running:
            yield running.pop(child)[0], os.waitstatus_to_exitcode(status)
            continue
        for child, (name, deadline) in list(running.items()):
            if time.monotonic() > deadline:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                del running[child]
                yield name, None
        time.sleep(0.01)


# -- the run ---------------------------------------------------------------------------


def remembered(processes: int) -> Lines:
    """`execute_all`, or what it found for the same sources."""
    sources = [path for folder in (CORE, TESTS) for path in sorted(folder.rglob("*.py"))]
    digest = sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    kept = ROOT / ".cache" / "mutants" / digest
    if not kept.exists():
        lines = execute_all(processes)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(pickle.dumps(lines))
    return pickle.loads(kept.read_bytes())  # type: ignore[no-any-return]


def execute_all(processes: int) -> Lines:
    """Which tests execute what. Exits where a test fails without any mutant."""
    files = [path for path in sorted(TESTS.rglob("test_*.py")) if path.name not in NOT_RUN]
    found = Lines({}, {})
    with tempfile.TemporaryDirectory() as folder:

        def job(file: Path) -> tuple[Path, Callable[[], int], float]:
            def work() -> int:
                sys.meta_path.insert(0, _Mutated(None))
                seen = _Seen()
                status = run_tests([str(file)], seen)
                Path(folder, file.name).write_bytes(pickle.dumps(seen.lines))
                return status

            return file, work, 600.0

        for file, status in in_processes(map(job, files), processes):
            if status != 0:
                sys.exit(f"{file.relative_to(ROOT)} fails without a mutant (status {status})")
            lines: Lines = pickle.loads(Path(folder, file.name).read_bytes())
            found.seconds.update(lines.seconds)
            for module, by_line in lines.tests.items():
                for line, tests in by_line.items():
                    found.tests.setdefault(module, {}).setdefault(line, set()).update(tests)
    return found


def tests_for(mutant: Mutant, lines: Lines) -> list[str]:
    """The tests to run, quickest first: those that execute the mutated lines. A line
    that is executed by importing alone matters to all tests of its module, or of core."""
    by_line = lines.tests.get(mutant.module, {})
    tests: set[str] = set().union(*(by_line.get(line, ()) for line in mutant.lines))
    if not tests and not _in_function(mutant):
        tests = set().union(*by_line.values()) or set(lines.seconds)
    found, spent = [], 0.0
    for test in sorted(tests, key=lambda test: (lines.seconds[test], test)):
        spent += lines.seconds[test]
        if spent > BUDGET_SECONDS:
            break
        found.append(test)
    return found


def _in_function(mutant: Mutant) -> bool:
    tree = ast.parse(path_of(mutant.module).read_text("utf-8"))
    return any(
        isinstance(node, ast.FunctionDef) and node.lineno <= mutant.line <= (node.end_lineno or 0)
        for node in ast.walk(tree)
    )


def survivors(mutants: Sequence[Mutant], lines: Lines, processes: int) -> Iterator[Mutant]:
    """Those that no test notices."""

    def job(mutant: Mutant) -> tuple[Mutant, Callable[[], int], float]:
        tests = tests_for(mutant, lines)

        def work() -> int:
            sys.meta_path.insert(0, _Mutated(mutant))
            name = mutant.module.replace("policies.", "policy_")
            own = [test for test in tests if f"/test_{name}.py::" in test]
            rest = [test for test in tests if test not in own]
            return (own and run_tests(own)) or (rest and run_tests(rest)) or 0

        return mutant, work, 30.0 + 5.0 * sum(lines.seconds[test] for test in tests)

    for done, (mutant, status) in enumerate(in_processes(map(job, mutants), processes), 1):
        if status == 0:
            yield mutant
        if sys.stderr.isatty() or not done % 50:
            print(f"\r{done} of {len(mutants)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def main() -> int:
    """The run, as the arguments say."""
    parser = argparse.ArgumentParser(description="Mutation testing of preble_plugin/core.")
    parser.add_argument("modules", nargs="*", help="such as `load`; default: all")
    parser.add_argument("--sample", type=int, help="mutants to draw; 0: all of them")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--without", nargs="*", default=[], help="modules to leave out")
    parser.add_argument("--survivors", action="store_true", help="print their lines")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    os.chdir(ROOT)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.dont_write_bytecode = False
    if wrong := {*asked.modules, *asked.without} - set(modules()):
        parser.error(f"no module {sorted(wrong)[0]!r} in core; there are {', '.join(modules())}")
    chosen = [one for one in asked.modules or modules() if one not in asked.without]
    mutants = [mutant for module in chosen for mutant in mutants_of(module)]
    sample = asked.sample if asked.sample is not None else 0 if asked.modules else SAMPLE
    if 0 < sample < len(mutants):
        drawn = sorted(random.Random(asked.seed).sample(range(len(mutants)), sample))
        print(f"{sample} of {len(mutants)} mutants, drawn with seed {asked.seed}")
        mutants = [mutants[one] for one in drawn]
    lines = remembered(asked.processes)
    alive = list(survivors(mutants, lines, asked.processes))
    if asked.survivors:
        for one in sorted(alive, key=lambda one: (one.module, one.line)):
            print(f"{path_of(one.module).relative_to(ROOT)}:{one.line}: {one.change}")
    return report(mutants, alive)


def report(mutants: Sequence[Mutant], alive: Sequence[Mutant]) -> int:
    """The scores; the status to exit with."""
    total, survived = Counter(one.module for one in mutants), Counter(one.module for one in alive)
    print(f"{'module':28}{'mutants':>8}{'killed':>8}{'score':>8}")
    rows = [*((one, total[one], survived[one]) for one in total)]
    for name, made, left in [*rows, ("core", len(mutants), len(alive))]:
        print(f"{name:28}{made:8}{made - left:8}{(made - left) / made:8.0%}")
    return int(len(mutants) - len(alive) < PASS_SHARE * len(mutants))


if __name__ == "__main__":
    sys.exit(main())
