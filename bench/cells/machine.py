"""Where and with what something is measured: hardware, software, commit."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil
import torch

from bench import devices
from bench.store.json_store import Provenance

ROOT = Path(__file__).resolve().parents[2]


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
    hardware = facts()
    memory_gib = int(hardware["memory_bytes"]) >> 30
    key = f"{hardware['processor']} {hardware['cores']} {memory_gib} "
    digest = hashlib.sha256((key + str(hardware["accelerator"])).encode()).hexdigest()[:6]
    readable = re.sub(r"[^a-z0-9]+", "-", str(hardware["processor"]).lower()).strip("-")
    return f"{readable}-{hardware['cores']}c-{digest}"


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
        process = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return process.stdout.strip()


def provenance(schema_version: int, seed: int) -> dict[str, Any]:
    """The fields of `Provenance` as of now, for what is about to be measured."""
    head, dirty = commit()
    provenance = Provenance(
        schema_version=schema_version,
        seed=seed,
        torch_version=str(torch.__version__),
        python_version=platform.python_version(),
        machine_id=machine_id(),
        machine=facts(),
        commit=head,
        dirty=dirty,
        started_at_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return msgspec.structs.asdict(provenance)
