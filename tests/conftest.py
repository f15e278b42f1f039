"""Fixtures for strategies; what a long run does more; how much memory a run may take."""

from __future__ import annotations

import ctypes
import gc
import math
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest
import torch
from hypothesis import settings

from strategies.execution import checkpoint as checkpoint_module
from strategies.execution import framed

# Examples have no time limit: a slow machine is no failure.
settings.register_profile("short", deadline=None, max_examples=25)
settings.register_profile("long", deadline=None, max_examples=100)

MOST_BYTES = 900_000_000
"""That any process of a short run may have to itself at once, if nothing else is said.

Pages of libraries' files are not counted: processes share them, and the system chooses how many it
maps around each that is read, 260 MB of them or 420, of the same files.
"""
MOST_CHILD_BYTES = 1_300_000_000
"""That any process of its own may, files' pages included: of one that ended no more is known."""
GROWTH_BYTES = 8_000_000
"""Of one test, or of several small ones, after which garbage is collected: few objects of Python
can hold much of C++, of traces above all, and Python collects by number."""
KEEPERS = ("simulated", "strategies.solvers.")
"""Modules with caches of much, which the next file asks for something else."""
_PEAK = "peak"


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("long" if config.getoption("--long") else "short")
    config.pluginmanager.register(Memory(config), "peak memory")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A short run has no long tests."""
    long = [item for item in items if item.get_closest_marker("long")]
    if long and not config.getoption("--long"):
        config.hook.pytest_deselected(items=long)
        dropped = set(long)
        items[:] = [item for item in items if item not in dropped]


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Modules and tests stay until the end: no collection need look at them again."""
    freeze()


def freeze() -> None:
    """What there is stays: the hundreds of collections in memory and time measurements, and
    Python's own, pass it by.

    Garbage goes first: what is frozen, and garbage by then, is never freed.
    """
    gc.collect()
    gc.freeze()


def forget_compiled() -> None:
    """What PyTorch's compiler keeps of models that a file's tests have compiled."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()


def forget_cached(file: str) -> None:
    """What functions have kept for a file's tests: models, profiles, simulations, tables."""
    for name in [one for one in sys.modules if one == file or one.startswith(KEEPERS)]:
        for value in list(vars(sys.modules[name]).values()):
            if hasattr(value, "cache_clear") and value.__module__ == name:
                value.cache_clear()


class Memory:
    """The most memory of each process: measured in each worker, printed and judged in the end.

    Measured after each test, because some tests reset the system's own high-water mark.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config, self.process = config, psutil.Process()
        self.kept_bytes = 0  # what stayed the last time that garbage was collected
        self.most: dict[str, Any] = {"bytes": 0, "test": "collection", "child_bytes": 0}
        self.workers: dict[str, dict[str, Any]] = {}
        self.bounds_bytes = {"bytes": MOST_BYTES, "child_bytes": MOST_CHILD_BYTES}
        other_bytes = config.getoption("--most-bytes") or (config.getoption("--long") and math.inf)
        if other_bytes:
            self.bounds_bytes = dict.fromkeys(self.bounds_bytes, other_bytes)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Any:
        answer = yield
        if nextitem is None or nextitem.path != item.path:
            forget_compiled()
            forget_cached(item.path.stem)
            freeze()  # what a file leaves, modules that it was the first to import above all
        if self.process.memory_info().rss - self.kept_bytes > GROWTH_BYTES:
            gc.collect()
            give_back()
            self.kept_bytes = self.process.memory_info().rss
        now_bytes = resident_bytes(resource.RUSAGE_SELF) - self.shared_bytes()
        if now_bytes > self.most["bytes"]:
            self.most |= {"bytes": now_bytes, "test": item.nodeid}
        return answer

    def shared_bytes(self) -> int:
        """Of files' pages, which macOS does not tell."""
        return int(getattr(self.process.memory_info(), "shared", 0))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.most["child_bytes"] = resident_bytes(resource.RUSAGE_CHILDREN)
        output = getattr(self.config, "workeroutput", None)
        if output is not None:
            output[_PEAK] = self.most
        elif not self.workers:
            self.workers["this process"] = self.most
        if output is None and self.excesses() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.workers[node.gateway.id] = getattr(node, "workeroutput", {}).get(_PEAK, self.most)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.section("peak memory")
        for name, most in sorted(self.workers.items()):
            children = f"a process of its own {most['child_bytes'] / 1e6:,.0f} MB with them"
            own = f"{name}: {most['bytes'] / 1e6:,.0f} MB beside files' pages, in {most['test']}"
            terminalreporter.write_line(f"{own}; {children}")
        for name in self.excesses():
            bounds = " or ".join(f"{bound / 1e6:,.0f} MB" for bound in self.bounds_bytes.values())
            terminalreporter.write_line(f"{name} took more than {bounds}", red=True)

    def excesses(self) -> list[str]:
        """The processes that took too much."""
        return [
            name
            for name, most in sorted(self.workers.items())
            if any(most[kind] > bound for kind, bound in self.bounds_bytes.items())
        ]


def give_back() -> None:
    """What the C library has free, to the system: it keeps it else, in pieces."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def resident_bytes(who: int) -> int:
    """The most that was resident; Linux counts in KiB, macOS in bytes."""
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.fixture(autouse=True, scope="session")
def small_copies() -> Iterator[None]:
    """How fast memory is copied, which no test looks at, is not measured with 256 MB.

    Loaded by now where all tests are collected; for a few it need not be.
    """
    with pytest.MonkeyPatch.context() as patch:
        if "bench.simulate.calibrate" in sys.modules:
            patch.setattr("bench.simulate.calibrate._COPY_VALUES", 2**16)
        yield


@pytest.fixture
def uncompiled() -> None:
    """As a process that has compiled nothing: in another nobody is warned of idle blocks."""
    torch._dynamo.utils.counters.clear()


@pytest.fixture
def checkpoints(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., Any]]:
    """Counts the checkpoints that are made."""
    made: list[Callable[..., Any]] = []

    def count(function: Callable[..., Any], *args: Any) -> Any:
        made.append(function)
        return framed.framed(function, *args)

    monkeypatch.setattr(checkpoint_module, "framed", count)
    return made
