"""Where everything that is stored comes from: a line for each kind, machine and version."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from bench.report import display
from bench.report.stored import Stored
from bench.store.json_store import Provenance

UNKNOWN = "not said"
SIMULATED = "sim:"
"""What the names of devices begin with that were not there."""
_FACTS = ("processor", "cores", "memory_bytes", "accelerator", "system")


@dataclasses.dataclass(frozen=True)
class Environment:
    """What was measured, or modelled, in one place with one set of versions."""

    kind: str
    device: str
    machine: str
    facts: str
    versions: str
    dates: str
    commits: str
    count: int


def environments(stored: Stored) -> list[Environment]:
    """Every one, kinds in the order of `Stored`."""
    lines = []
    for field in dataclasses.fields(stored):
        groups: dict[tuple[str, ...], list[Provenance]] = {}
        for value in getattr(stored, field.name):
            groups.setdefault(_key(value), []).append(value)
        lines += [_line(field.name, groups[key]) for key in sorted(groups)]
    return lines


def _key(value: Provenance) -> tuple[str, ...]:
    return (_device(value), value.machine_id, value.torch_version, value.python_version)


def _device(value: Provenance) -> str:
    """As a record says it; a study that names no device ran on the machine's processor."""
    device = getattr(value, "device", None)
    if device is None:
        return "cpu"
    modelled = device.startswith(SIMULATED)
    name = getattr(value, "device_name", getattr(value, "product", device))
    return display.device({"device": device, "device_name": name, "modelled": modelled})


def _line(kind: str, values: Sequence[Provenance]) -> Environment:
    first = values[0]
    return Environment(
        kind=kind,
        device=_device(first),
        machine=first.machine_id,
        facts=_facts(first),
        versions=f"torch {first.torch_version}, Python {first.python_version}",
        dates=display.dates([{"started_at_utc": value.started_at_utc} for value in values]),
        commits=_commits(values),
        count=len(values),
    )


def _facts(value: Provenance) -> str:
    """Of the computer that ran the program, also where the device is modelled."""
    known = {name: value.machine[name] for name in _FACTS if name in value.machine}
    if "memory_bytes" in known:
        known["memory_bytes"] = display.sized(float(known["memory_bytes"]))
    return ", ".join(f"{name.removesuffix('_bytes')} {fact}" for name, fact in known.items())


def _commits(values: Iterable[Provenance]) -> str:
    """Shortened; a star is a working tree with changes."""
    names = {f"{v.commit[:8]}{'*' if v.dirty else ''}" if v.commit else UNKNOWN for v in values}
    return ", ".join(sorted(names))
