"""Files for boundaries, of which nothing is left however the process ends.

A file has no name where the system allows it (Linux's ``O_TMPFILE``): the kernel frees it with the
process, even one that is killed. Elsewhere, and beyond a share of the descriptors that a process
may have open, files have names in a folder that the process holds a lock on. The lock goes with the
process; the next one that rests boundaries in the same place removes folders that nobody holds.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import errno
import functools
import os
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl
    import resource

PREFIX = "ckpt-bench-offload-"
_SHARE = 4  # of the descriptors that a process may have open, files take one in so many
_NO_LIMIT = 1024


class File(abc.ABC):
    """Bytes at rest; they vanish with this object."""

    @abc.abstractmethod
    def opened(self) -> contextlib.AbstractContextManager[int]:
        """Its descriptor."""

    def write(self, data: memoryview) -> None:
        """Write all of ``data`` to the beginning."""
        view, done = data.cast("B"), 0
        with self.opened() as descriptor:
            while done < len(view):
                done += os.pwrite(descriptor, view[done:], done)

    def read_into(self, room: memoryview) -> int:
        """Fill ``room`` from the beginning; how many bytes there were."""
        view, done = room.cast("B"), 0
        with self.opened() as descriptor:
            while done < len(view):
                count = os.preadv(descriptor, [view[done:]], done)
                if not count:
                    break
                done += count
        return done


@dataclasses.dataclass(frozen=True, eq=False)
class Nameless(File):
    """An open file that no folder lists."""

    descriptor: int

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """It is always open."""
        yield self.descriptor


@dataclasses.dataclass(frozen=True, eq=False)
class Named(File):
    """A file in a folder of this process's own, which stays as long as one of its files."""

    path: Path
    folder: Folder

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """Opened each time."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


@dataclasses.dataclass(frozen=True, eq=False)
class Folder:
    """A folder that is locked as long as this object, or a process that has it, lives."""

    path: Path
    lock: int | None

    @classmethod
    def new(cls, directory: str) -> Folder:
        """A folder in ``directory``."""
        while True:
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=directory))
            folder = cls(path, _locked(path, wait=True))
            if path.exists():  # another process may have found it before it was locked
                weakref.finalize(folder, _remove, path, folder.lock, os.getpid())
                return folder


_nameless: weakref.WeakSet[Nameless] = weakref.WeakSet()
_folders: weakref.WeakValueDictionary[tuple[str, int], Folder] = weakref.WeakValueDictionary()


def new(directory: str | None) -> File:
    """An empty file on the file system of ``directory`` (default: the temporary folder's)."""
    place = directory or tempfile.gettempdir()
    _sweep_once(place, os.getpid())
    if len(_nameless) < _most_open():
        with _unless_refused():
            return _new_nameless(place)
    return _new_named(place)


@contextlib.contextmanager
def _unless_refused() -> Iterator[None]:
    """Go on where a file system, or a kernel, has no files without names."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
            raise


def _most_open() -> int:
    if sys.platform != "linux":
        return 0
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (_NO_LIMIT if soft == resource.RLIM_INFINITY else soft) // _SHARE


def _new_nameless(place: str) -> Nameless:
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    file = Nameless(os.open(place, flags, 0o600))
    weakref.finalize(file, os.close, file.descriptor)
    _nameless.add(file)
    return file


def _new_named(place: str) -> Named:
    folder = _folders.get((place, os.getpid()))
    if folder is None:
        folder = _folders[place, os.getpid()] = Folder.new(place)
    handle, name = tempfile.mkstemp(suffix=".boundary", dir=folder.path)
    os.close(handle)
    file = Named(Path(name), folder)
    weakref.finalize(file, _unlink, file.path, os.getpid())
    return file


def _unlink(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a fork may end earlier
        path.unlink(missing_ok=True)


def _remove(path: Path, lock: int | None, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)
    if lock is not None:
        os.close(lock)


@functools.cache
def _sweep_once(place: str, pid: int) -> None:
    del pid  # a fork is another process
    sweep(place)


def sweep(directory: str) -> list[Path]:
    """Remove folders of boundaries whose process is gone; returns those that were removed."""
    removed = []
    for path in sorted(Path(directory).glob(f"{PREFIX}*")):
        lock = _locked(path, wait=False)
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
            removed.append(path)
    return removed


def _locked(path: Path, *, wait: bool) -> int | None:
    """A descriptor that holds the lock of a folder; ``None`` where it cannot be had."""
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
