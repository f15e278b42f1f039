"""What ran: hardware, software, commit, and hashes of the code that decides a measurement."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil
import torch

from bench import devices
from strategies.contract.layered import Layered
from strategies.contract.strategy import Strategy

ROOT = Path(__file__).resolve().parents[2]

# What every measurement runs through. A strategy's own file is added for its cells only, so that
# a new strategy makes no old record stale.
_CORE = (
    "bench/cells/training.py",
    "bench/devices",
    "bench/measure",
    "bench/run/worker.py",
    "bench/workloads",
    "strategies/contract",
    "strategies/execution",
    "strategies/profiling",
    "strategies/schedules",
    "strategies/storage",
)
_SIMULATOR = ("bench/simulate",)


@functools.cache
def facts() -> dict[str, str | int | float]:
    """The machine, as far as it decides a measurement."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "processor": devices.cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "accelerator": ", ".join(v for k, v in devices.available().items() if k != "cpu") or "none",
        "torch_cuda": str(torch.version.cuda),
        "python_implementation": platform.python_implementation(),
    }


def _cores() -> int:
    return os.cpu_count() or 1


@functools.cache
def machine_id() -> str:
    """A folder name for this kind of machine: same hardware, same name. Holds no host name."""
    known = facts()
    memory_gib = int(known["memory_bytes"]) >> 30
    key = f"{known['processor']} {known['cores']} {memory_gib} "
    digest = hashlib.sha256((key + str(known["accelerator"])).encode()).hexdigest()[:6]
    readable = re.sub(r"[^a-z0-9]+", "-", str(known["processor"]).lower()).strip("-")
    return f"{readable}-{known['cores']}c-{digest}"


@functools.cache
def commit() -> tuple[str | None, bool | None]:
    """Commit of the source tree and whether it has changes; ``None`` outside a repository.

    Results and the README that they are written into do not count as changes.
    """
    head = _git("rev-parse", "HEAD")
    if head is None:
        return None, None
    status = _git("status", "--porcelain", "--", ".", ":!results", ":!README.md")
    return head, bool(status)


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def code_hash(strategy: Strategy, *, simulated: bool = False) -> str:
    """Twelve hex digits over the code that decides this strategy's measurements."""
    digest = hashlib.sha256(_core_digest(_SIMULATOR if simulated else ()))
    for path in _own_files(strategy):
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()[:12]


def _own_files(strategy: Strategy) -> list[str]:
    classes = [c for c in type(strategy).__mro__ if issubclass(c, Strategy)]
    files = {str(sys.modules[c.__module__].__file__) for c in classes}
    below = _own_files(strategy.below()) if isinstance(strategy, Layered) else []
    return sorted(files | set(below))


@functools.cache
def _core_digest(more: tuple[str, ...]) -> bytes:
    digest = hashlib.sha256()
    for path in _core_files(_CORE + more):
        digest.update(str(path.relative_to(ROOT)).encode())
        digest.update(path.read_bytes())
    return digest.digest()


def _core_files(names: Iterable[str]) -> list[Path]:
    roots = [ROOT / name for name in names]
    found = [p for root in roots for p in ([root] if root.is_file() else root.rglob("*"))]
    return sorted(p for p in found if p.suffix in (".py", ".json"))
