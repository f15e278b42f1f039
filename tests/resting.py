"""Files in which boundaries rest, with a name or without."""

from __future__ import annotations

import os
from pathlib import Path

from strategies.storage import spool


def sizes(folder: Path) -> list[int]:
    """Bytes of each file of this process under ``folder``, smallest first."""
    named = [path.stat().st_size for path in folder.rglob("*.boundary")]
    return sorted(named + [os.fstat(one).st_size for one in nameless(folder)])


def nameless(folder: Path) -> list[int]:
    """Descriptors of this process's files under ``folder`` that no folder lists."""
    found = []
    for link in list(Path("/proc/self/fd").iterdir()):
        target = link.readlink() if link.is_symlink() else Path()
        if target.is_relative_to(folder) and target.name.endswith(" (deleted)"):
            found.append(int(link.name))
    return found


def cut(folder: Path, count: int = 4) -> None:
    """Leave ``count`` bytes of each."""
    for descriptor in nameless(folder):
        os.ftruncate(descriptor, count)
    for path in folder.rglob("*.boundary"):
        os.truncate(path, count)


def has_names(monkeypatch) -> None:
    """Files have names from here on, as where the system has none without."""
    monkeypatch.setattr(spool, "_most_open", lambda: 0)
