"""What else goes on while steps are timed: other processes, throttling, frequency scaling.

Read before and after, so that nothing is asked while a step runs. What a system does not say is
``None``; most of it is Linux's.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from bench.store.parts import Surroundings

CPUS = Path("/sys/devices/system/cpu")
GROUPS = (Path("/sys/fs/cgroup/cpu.stat"), Path("/sys/fs/cgroup/cpu/cpu.stat"))
"""Of the second and of the first version of control groups."""
UNITS = {"throttled_usec": 1e-6, "throttled_time": 1e-9}
IDLE = ("idle", "iowait")
COUNTED_TWICE = ("guest", "guest_nice")  # in user and nice, too


@dataclasses.dataclass(frozen=True)
class Reading:
    """Counters that grow, as they are now, in seconds of processors and in times.

    Attributes:
        total_s: of all processors.
        idle_s: of them, nothing to do.
        stolen_s: of them, taken by other virtual machines.
        own_s: of this process and of children that ended.
        throttled_s: that a quota kept this process's group from running.
        thermal_throttles: how often processors were slowed for heat.
    """

    total_s: float
    idle_s: float
    stolen_s: float | None
    own_s: float
    throttled_s: float | None
    thermal_throttles: int | None

    @classmethod
    def now(cls) -> Reading:
        """All of them."""
        times = psutil.cpu_times()._asdict()
        own = psutil.Process().cpu_times()
        return cls(
            total_s=sum(s for name, s in times.items() if name not in COUNTED_TWICE),
            idle_s=sum(times.get(name, 0.0) for name in IDLE),
            stolen_s=times.get("steal"),
            own_s=sum(own[:4]),
            throttled_s=throttled_s(GROUPS),
            thermal_throttles=_sum(CPUS.glob("cpu*/thermal_throttle/core_throttle_count")),
        )


class Watch:
    """What went on between its making and `seen`."""

    def __init__(self) -> None:
        self._before = Reading.now()

    def seen(self) -> Surroundings:
        """The part of a record."""
        return between(self._before, Reading.now())


def between(before: Reading, after: Reading) -> Surroundings:
    """What two readings say of the time from one to the other."""
    total_s = after.total_s - before.total_s
    stolen_s = _more(before.stolen_s, after.stolen_s)
    busy_s = total_s - (after.idle_s - before.idle_s) - (stolen_s or 0.0)
    others_s = busy_s - (after.own_s - before.own_s)
    throttles = _more(before.thermal_throttles, after.thermal_throttles)
    return Surroundings(
        load_average=load_average(),
        other_cpu_share=_share(others_s, total_s),
        stolen_cpu_share=None if stolen_s is None else _share(stolen_s, total_s),
        cpu_governor=governor(CPUS),
        throttled_s=_more(before.throttled_s, after.throttled_s),
        thermal_throttles=None if throttles is None else int(throttles),
    )


def _more(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else max(0.0, after - before)


def _share(part_s: float, total_s: float) -> float | None:
    """Clocks tick in hundredths of a second: shares of a short time may leave 0 to 1."""
    return min(1.0, max(0.0, part_s / total_s)) if total_s > 0 else None


def load_average() -> float | None:
    """Processes that ran or waited, over the last minute."""
    try:
        return float(psutil.getloadavg()[0])
    except (AttributeError, OSError):
        return None


def governor(cpus: Path) -> str | None:
    """What sets the frequency of the processors; several: a comma between."""
    names = {text for path in cpus.glob("cpu*/cpufreq/scaling_governor") if (text := _read(path))}
    return ", ".join(sorted(names)) or None


def throttled_s(groups: Iterable[Path]) -> float | None:
    """Seconds that a quota kept this process's group from running, in all."""
    for path in groups:
        for line in (_read(path) or "").splitlines():
            name, _, value = line.partition(" ")
            if name in UNITS and value.isdigit():
                return int(value) * UNITS[name]
    return None


def _sum(paths: Iterator[Path]) -> int | None:
    counts = [int(text) for path in paths if (text := _read(path)) and text.isdigit()]
    return sum(counts) if counts else None


def _read(path: Path) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip()
    return None
