"""Tests on a mutant, in a copy of the project: each mutant in a forked process of its own."""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import functools
import gc
import hashlib
import importlib
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numba
import pytest

from mutants.killers import MOST_OF_A_FILE_S, Killers, Recorder, is_own, profile
from mutants.population import ROOT, Mutant

COPIED = ("strategies", "bench", "tests", "conftest.py", "pyproject.toml", "README.md")
BATCHES_S = (1.0, 8.0)
"""Processor time of the tests that run first, and of those that run if it survives them."""
MOST_WALL_S = 1200
"""Of a process that waits: others are ended by what they compute."""
MOST_BYTES = 6 << 30
"""That a mutant may ask for: some never stop asking."""
OPTIONS = (
    *("-q", "-p", "no:cacheprovider", "--rootdir", "."),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # it is loaded already: all the better
)
MEMORY = "peak memory"
"""What conftest calls the plugin that measures it."""
BROKEN = 99
PROJECT = ("strategies", "bench")
HOSTED = ("strategies", "bench.run.executor", "hypothesis", "highspy", "tiny")
"""What the tests import, and that with it."""
IGNORED = shutil.ignore_patterns("__pycache__")
FORK = multiprocessing.get_context("fork")


class Limits:
    """A plugin: a test may take a few times what it takes without a mutation, processor time."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.last = seconds, ""

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        profile()
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        # Tests come in no order of files, and memory is looked at whenever the file is another.
        session.config.pluginmanager.unregister(name=MEMORY)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        signal.setitimer(signal.ITIMER_PROF, 1 + 3 * self.seconds.get(item.nodeid, 0))
        answer = yield
        signal.setitimer(signal.ITIMER_PROF, 0)
        return answer


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What tests said of a mutant.

    Attributes:
        killed_by: ``failed``, ``time``, ``a signal``; empty: it survives.
        tests: how many of them there were.
    """

    killed_by: str
    tests: int


class Tree:
    """A copy of the project, in which one file at a time is another.

    Attributes:
        folder: of the copy.
        digest: of all that decides what a test says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.writes = folder, folder.parent / "log.txt", 0
        shutil.rmtree(folder, ignore_errors=True)
        for name in COPIED:
            _copy(ROOT / name, folder / name)
        own = {*folder.glob("tests/test_*.py"), *folder.glob("tests/mutants/*")}
        self.digest = _digest(folder, {*folder.rglob("*.py")} - own)

    def host(self) -> None:
        """Import the copy, once for all processes that are forked from this one.

        Nothing is compiled in them: of a mutant's code it would take longer than to run it.
        """
        numba.njit = _interpreted
        os.chdir(self.folder)
        os.environ["PYTHONPATH"] = str(self.folder)
        sys.path[:0] = [str(self.folder), str(self.folder / "tests")]
        for name in [name for name in sys.modules if is_own(name) or name.startswith(PROJECT)]:
            del sys.modules[name]
        for name in HOSTED:
            importlib.import_module(name)
        gc.collect()
        gc.freeze()

    def record(self, test_file: str) -> dict[str, Any]:
        """What a file's tests run, and how long they take; kept from run to run."""
        text = (self.folder / test_file).read_bytes()
        name = hashlib.sha256(
            f"{self.digest} {test_file} {MOST_OF_A_FILE_S}".encode() + text
        ).hexdigest()
        answer = self.folder.parent / "records" / f"{name[:16]}.json"
        answer.parent.mkdir(exist_ok=True)
        if not answer.exists():
            self._fork(lambda: run([test_file], Recorder(answer)))
        empty = {"seconds": {}, "lines": {}}
        return dict(json.loads(answer.read_text())) if answer.exists() else empty

    def judge(self, mutant: Mutant, killers: Killers) -> Verdict:
        """Run its tests, the quickest first, until one fails."""
        tests, path = killers.of(mutant.file, mutant.lines), self.folder / mutant.file
        self._write(path, mutant.text)
        try:
            for batch in batches(tests, killers.seconds):
                limits = Limits(killers.seconds)
                code = self._fork(functools.partial(run, ["-x", *batch], limits))
                if cause := self._cause(code):
                    return Verdict(cause, len(tests))
        finally:
            shutil.copy2(ROOT / mutant.file, path)  # with its time, by which compiled code is known
        return Verdict("", len(tests))

    def _write(self, path: Path, text: str) -> None:
        """As never before, by the file's time: byte code of the same size would be taken for it."""
        path.write_text(text)
        self.writes += 1
        os.utime(path, (self.writes, self.writes))

    def _fork(self, work: Callable[[], int]) -> int | None:
        process = FORK.Process(target=self._run, args=(work,))
        process.start()
        process.join(MOST_WALL_S)
        code = process.exitcode
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and whatever it has started
        process.join()
        return code

    def _cause(self, code: int | None) -> str:
        if code == BROKEN:
            raise RuntimeError(f"no test could run: see {self.log}")
        if code in (None, -signal.SIGPROF):
            return "time"
        if code is not None and code < 0:
            return "a signal"
        if code == pytest.ExitCode.USAGE_ERROR:  # what it says of a conftest that fails
            return "" if "ERROR: not found" in self.log.read_text() else "failed"
        return "" if code == pytest.ExitCode.OK else "failed"

    def _run(self, work: Callable[[], int]) -> None:
        code = BROKEN  # and not that of a test that fails
        try:
            self._enter()
            code = work()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def _enter(self) -> None:
        os.setsid()
        log = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        for name in [name for name in sys.modules if is_own(name)]:
            del sys.modules[name]
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))


def _interpreted(function: Any = None, **_: Any) -> Any:
    """As ``numba.njit`` with an answer that is not compiled."""
    if function is None:
        return _interpreted
    function.py_func = function
    return function


def run(tests: Sequence[str], plugin: Any) -> int:
    """Run tests in this process."""
    return int(pytest.main([*OPTIONS, *tests], plugins=[plugin]))


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=IGNORED)
    else:
        shutil.copy2(source, target)


def _digest(folder: Path, paths: Iterable[Path]) -> str:
    known = hashlib.sha256()
    for path in sorted(paths):
        known.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return known.hexdigest()[:16]


def batches(tests: Sequence[str], seconds: Mapping[str, float]) -> Iterator[list[str]]:
    """The tests that fit into each of `BATCHES_S`, one after another; what is left does not run."""
    left = list(tests)
    for most_s in BATCHES_S:
        ends = list(itertools.accumulate(seconds[test] for test in left))
        count = bisect.bisect_right(ends, most_s)
        if count:
            yield left[:count]
        left = left[count:]
