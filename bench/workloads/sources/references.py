"""``own.py:build`` and ``package.module:build``: functions of users, found before they are loaded.

To find one runs nothing of the user's. To load one happens in the process of the cell: by path,
under a name that no other module has, its folder first on the path of imports for as long as the
user's own code is called to build something.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import operator
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.workloads.errors import InputError
from bench.workloads.sources import blame, running

_INSTALLED = ("site-packages", "dist-packages")


@dataclasses.dataclass(frozen=True)
class Reference:
    """A function of a user's.

    Attributes:
        text: as it is stored: the path in full, or the module's dotted name, and the function.
        path: the file.
        module: dotted name; of a file that is named by its path, its stem.
        folder: where imports are looked for.
        function: dotted name in the module.
    """

    text: str
    path: Path
    module: str
    folder: Path
    function: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """The function that ``path.py:name`` or ``package.module:name`` names.

        Raises:
            ValueError: there is no such file or module; nothing of it was run.
        """
        where, sign, function = text.rpartition(":")
        if not sign or not where or not all(map(str.isidentifier, function.split("."))):
            raise ValueError(f"a function is named as file.py:name or module:name, not {text!r}")
        if where.endswith(".py") or "/" in where:
            path = Path(where).expanduser().absolute()
            if not path.is_file():
                raise ValueError(f"no file {str(path)!r}")
            return cls(f"{path}:{function}", path, path.stem, path.parent, function)
        path, folder = _find(where)
        return cls(text, path, where, folder, function)

    @property
    def by_path(self) -> bool:
        """Whether a path names the file; otherwise its module's name does."""
        return self.text.startswith(str(self.path))

    def folders(self) -> tuple[tuple[str, Path], ...]:
        """Top-level modules that the file may import and that are the user's; where they lie."""
        top = self.module.partition(".")[0]
        if any(part in _INSTALLED for part in self.folder.parts):
            return ((top, self.folder),)
        beside = {path.stem for path in self.folder.glob("*.py")}
        beside |= {path.name for path in self.folder.iterdir() if path.is_dir()}
        return tuple((name, self.folder) for name in sorted({top, *beside}))

    def call(self, arguments: Mapping[str, Any]) -> Any:
        """What the function gives.

        Raises:
            InputError: the file cannot be loaded, has no such function, or it raises.
        """
        function = self.load()
        with self.home():
            try:
                return function(**arguments)
            except (Exception, SystemExit) as error:
                raise blame.sentence(error, self.place(), (self.folder,)) from error

    def load(self) -> Callable[..., Any]:
        """The function; its file is run once in a process.

        Raises:
            InputError: the file cannot be loaded, or has no such function.
        """
        try:
            with self.home():
                module = _by_path(self.path) if self.by_path else _imported(self.module)
        except (Exception, SystemExit) as error:
            raise blame.sentence(error, str(self.path), (self.folder,)) from error
        try:
            function = operator.attrgetter(self.function)(module)
        except AttributeError as error:
            raise InputError(f"{self.path} has no {self.function!r}; {_has(module)}") from error
        if not callable(function) or isinstance(function, ModuleType):
            kind = type(function).__name__
            raise InputError(f"{self.path}: {self.function} is no function, but {kind}")
        return function  # type: ignore[no-any-return]

    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """What the function takes, by name."""
        return inspect.signature(self.load()).parameters

    def place(self) -> str:
        """``file:line`` of the function."""
        return blame.place_of(self.load()) or str(self.path)

    @contextlib.contextmanager
    def home(self) -> Iterator[None]:
        """Imports are looked for in the folder first, as by a script there; prints go to stderr."""
        folder = str(self.folder)
        sys.path.insert(0, folder)
        try:
            with contextlib.redirect_stdout(sys.stderr), running.within(self.path):
                yield
        finally:
            with contextlib.suppress(ValueError):  # it may have been taken away meanwhile
                sys.path.remove(folder)


def _find(module: str) -> tuple[Path, Path]:
    """A module's file, and the folder of its top-level package; imports nothing."""
    names = module.split(".")
    top = spec = _top(names[0])
    for depth in range(2, len(names) + 1):
        inside = spec.submodule_search_locations if spec else None
        spec = PathFinder.find_spec(".".join(names[:depth]), list(inside)) if inside else None
    if top is None or spec is None or not Path(spec.origin or "").is_file():
        raise ValueError(f"no module {module!r} is found on the path of imports")
    package = next(iter(top.submodule_search_locations or ()), top.origin)
    return Path(str(spec.origin)), Path(str(package)).parent


def _top(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _by_path(path: Path) -> ModuleType:
    source = path.read_bytes()
    digest = hashlib.sha256(str(path).encode() + source).hexdigest()[:12]
    name = re.sub(r"\W", "_", f"own_{path.stem}_{digest}")
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _imported(name: str) -> ModuleType:
    return importlib.import_module(name)


def _has(module: ModuleType) -> str:
    names = [name for name, one in vars(module).items() if inspect.isroutine(one)]
    own = [name for name in names if not name.startswith("_")]
    return f"it has {', '.join(own)}" if own else "it has no functions"
