"""The pictures of ``docs/pictures``, which are committed, for GitHub shows them too.

They are made by `python -m bench.site`; the same code makes the same bytes on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from bench.report import canvas
from bench.site import chain_picture, memory_picture, plan_picture
from bench.store.json_store import write_atomically
from strategies.schedules.schedule import Schedule

FOLDER = Path("docs/pictures")
PLAN = "0 1 [2 3] [[4 5] 6]"
SCHEDULE = "0:core 1:products [2 3]@host [4 5 6] 7"


def plan(text: str) -> Figure:
    """A schedule, from what `Schedule.render` prints."""
    return plan_picture.figure(Schedule.parse(text))


PICTURES: Mapping[str, Callable[[], Figure]] = {
    "chain": chain_picture.figure,
    "plan": lambda: plan(PLAN),
    "schedule": lambda: plan(SCHEDULE),
    "memory": memory_picture.figure,
}
"""By name of the file, without its ending."""


def svg(make: Callable[[], Figure]) -> bytes:
    """What ``make`` draws, in the style of all figures."""
    with canvas.style():
        return canvas.render(make())["svg"]


def update(folder: Path = FOLDER, *, check: bool = False) -> list[str]:
    """Write the pictures that differ, and delete what is none; a line for each.

    Args:
        folder: where they are.
        check: change nothing.
    """
    made = {folder / f"{name}.svg": svg(make) for name, make in PICTURES.items()}
    stale = sorted(set(folder.glob("*")) - set(made))
    other = [path for path, data in made.items() if not path.is_file() or path.read_bytes() != data]
    if check:
        return [*(f"{path}: no picture" for path in stale), *(f"{path}: differs" for path in other)]
    for path in stale:
        path.unlink()
    for path in other:
        write_atomically(path, made[path])
    return [*(f"deleted {path}" for path in stale), *(f"wrote {path}" for path in other)]
