"""Which tests can see a mutant: those that run its line, by coverage of each test by itself."""

from __future__ import annotations

import ast
import functools
import json
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from coverage import Coverage
from hypothesis import Phase, settings

from mutants.population import FOLDERS, ROOT, files

MOST_S, MOST_OF_A_FILE_S = 2.0, 15.0
"""Of a test in processor time, and of all of a file's: what takes longer is no test for mutants."""


@functools.cache
def imports(file: Path) -> frozenset[str]:
    """The modules that a file may import, and the names in them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def module_of(file: str) -> str:
    """``strategies/schedules/plan.py`` → ``strategies.schedules.plan``."""
    return file.removesuffix(".py").replace("/", ".")


def test_files() -> tuple[list[str], list[str]]:
    """Those that are named after a mutated module, and need no model; and others that import two.

    One alone is imported to build plans for tests of something else.
    """
    paths = sorted((ROOT / "tests").glob("test_*.py"))
    some = {str(path.relative_to(ROOT)): _mutated(path) for path in paths}
    named = [
        test
        for test, used in some.items()
        if used
        and any(is_about(test, file) for file in files())
        and "torch" not in imports(ROOT / test)
    ]
    return named, [test for test, used in some.items() if len(used) > 1 and test not in named]


def is_about(test_file: str, file: str) -> bool:
    """``test_interpreter_costs.py`` is about ``interpreter.py``, ``test_optimal.py`` about
    ``optimal_table.py``.
    """
    subject, stem = Path(test_file).stem.removeprefix("test_"), Path(file).stem
    return stem.startswith(subject) or subject.startswith(stem)


def _mutated(path: Path) -> set[str]:
    return {file for file in files() if module_of(file) in imports(path)}


@functools.cache
def own_modules() -> frozenset[str]:
    """Those that each process imports for itself: what is mutated, and the tests.

    The rest of the project is there already. It uses the mutated modules' originals: a test through
    it sees less, or cannot run at all, and then kills nothing.
    """
    tests = {path.stem for path in (ROOT / "tests").iterdir()} - {"mutants"}
    return frozenset({"conftest", *tests, *(folder.replace("/", ".") for folder in FOLDERS)})


def is_own(name: str) -> bool:
    """Whether a module is one of `own_modules`, or in one."""
    return not own_modules().isdisjoint({name.partition(".")[0], ".".join(name.split(".")[:2])})


def profile() -> None:
    """Hypothesis: always the same examples, and the first failure is enough."""
    phases = [Phase.explicit, Phase.generate]
    now = settings.get_profile(settings.get_current_profile_name())
    options: dict[str, Any] = {"phases": phases, "derandomize": True, "database": None}
    settings.register_profile("mutants", now, **options)
    settings.load_profile("mutants")


def forget() -> None:
    """Empty the project's caches: a test is to run what it needs, though another has before."""
    for name, module in list(sys.modules.items()):
        if name.startswith("strategies."):
            for value in vars(module).values():
                clear = getattr(value, "cache_clear", None)
                if callable(clear):
                    clear()


class Recorder:
    """A plugin: what each test runs of the mutated folders, and how long it takes."""

    def __init__(self, answer: Path) -> None:
        self.answer, self.here = answer, ""
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        include = [f"{folder}/*" for folder in FOLDERS]
        self.coverage = Coverage(data_file=None, include=include, config_file=False)

    def pytest_sessionstart(self) -> None:
        profile()
        signal.signal(signal.SIGPROF, _too_long)
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        if sum(self.seconds.values()) > MOST_OF_A_FILE_S:
            item.session.shouldstop = "enough"
        forget()
        self.here = item.nodeid
        self.coverage.switch_context(self.here)
        signal.setitimer(signal.ITIMER_PROF, MOST_S)
        started_s = time.process_time()
        answer = yield
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.seconds[item.nodeid] = time.process_time() - started_s
        return answer

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """What tests of a file share counts for all of them."""
        shared = fixturedef.scope != "function"
        self.coverage.switch_context(self.here.partition("::")[0] if shared else self.here)
        answer = yield
        self.coverage.switch_context(self.here)
        return answer

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        data, lines = self.coverage.get_data(), {}
        for file in data.measured_files():
            contexts = data.contexts_by_lineno(file)
            name = str(Path(file).relative_to(Path.cwd()))
            lines[name] = {line: [c for c in some if c] for line, some in contexts.items()}
        seconds = {k: v for k, v in self.seconds.items() if k not in self.failed}
        self.answer.write_text(json.dumps({"seconds": seconds, "lines": lines}))


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {MOST_S} s")


@functools.cache
def lines_of_functions(file: str) -> frozenset[int]:
    """Those that run when a function is called; others when the module is imported."""
    nodes = ast.walk(ast.parse((ROOT / file).read_text()))
    bodies = [node.body for node in nodes if isinstance(node, ast.FunctionDef)]
    spans = (range(body[0].lineno, (body[-1].end_lineno or 0) + 1) for body in bodies)
    return frozenset(line for span in spans for line in span)


class Killers:
    """Of what the recorder wrote of each test file: the tests for a mutant, the quickest first."""

    def __init__(self, records: dict[str, dict[str, Any]]) -> None:
        self.seconds: dict[str, float] = {}
        self.by_line: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for test_file, record in records.items():
            self.seconds |= record["seconds"]
            for file, lines in record["lines"].items():
                for line, contexts in lines.items():
                    self.by_line[file][int(line)].update(self._tests(test_file, record, contexts))

    def _tests(self, test_file: str, record: dict[str, Any], contexts: list[str]) -> set[str]:
        if test_file in contexts:
            return set(record["seconds"])
        return set(contexts) & record["seconds"].keys()

    def of(self, file: str, lines: range) -> list[str]:
        """Tests that run one of the lines; of one that none does, or an import, any of the file's,
        and any of a test file that imports it.

        Whoever imports first runs the lines of a module, and all who come after depend on them.
        """
        table = self.by_line[file]
        tests = {test for line in lines for test in table.get(line, ())}
        if not tests or not lines_of_functions(file).issuperset(lines):
            tests = {test for some in table.values() for test in some}
            tests |= {test for test in self.seconds if _is_near(test, file)}
        return sorted(tests, key=lambda test: (not _is_near(test, file), self.seconds[test], test))


def _is_near(test: str, file: str) -> bool:
    """Whether the test's file imports the mutated module itself."""
    return module_of(file) in imports(ROOT / test.partition("::")[0])
