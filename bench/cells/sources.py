"""Hashes of the code that decides a measurement: all that it imports, found by reading the imports.

Every file that a cell's process can come to is hashed: the import closure of where it enters, of
its strategy and of its workload, imports inside functions included. Strategies and workloads are
looked up by name, so the files of others, which are loaded too, decide nothing here: a new one
makes no old record stale.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.cells import machine
from bench.workloads.base import Code, Workload
from strategies.contract.layered import Layered
from strategies.contract.registry import get
from strategies.contract.strategy import Strategy

ENTRY = "bench.run.executor"
"""The module that gives every cell its process."""
RANKS_ENTRY = "bench.ranks.launch"
"""The one that gives a cell several."""
SIMULATED_RANKS_ENTRY = "bench.ranks.simulated_record"
"""The one that simulates a rank of several."""
REFERENCE = "none"
"""What every cell is compared with."""

Folders = tuple[tuple[str, Path], ...]


def code_hash(strategy: Strategy, workload: Workload, entry: str = ENTRY) -> str:
    """Twelve hex digits over the code that decides a strategy's measurements on a workload."""
    pair = (get(REFERENCE), strategy)
    own = [name for one in pair for name in modules_of(one)]
    digest = hash_of([entry, *_modules_of(type(workload)), *own])
    code = workload.code()
    return digest if code == Code() else _with(digest, code)


def hash_of(modules: Iterable[str]) -> str:
    """Twelve hex digits over all that modules, which are loaded, come to."""
    names = tuple(sorted(set(modules)))
    folders = tuple(sorted({(name.partition(".")[0], _folder(name)) for name in names}))
    return _digest(names, folders)


def _with(digest: str, code: Code) -> str:
    """The hash, and that of code from elsewhere, which may be another one the next moment."""
    whole = hashlib.sha256(f"{digest} {code.facts}".encode())
    for name, path in _closure(code.modules, dict(code.folders)).items():
        whole.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()[:12]


def modules_of(strategy: Strategy) -> list[str]:
    """Where a strategy, and what it is layered over, are defined."""
    below = modules_of(strategy.below()) if isinstance(strategy, Layered) else []
    return [*_modules_of(type(strategy)), *below]


def _modules_of(cls: type) -> list[str]:
    """Where a class and its bases are defined, the standard library aside."""
    names = {base.__module__ for base in cls.__mro__}
    return [name for name in names if name.partition(".")[0] not in sys.stdlib_module_names]


def _folder(module: str) -> Path:
    """Where a module's top-level package lies; of this project: where its sources are."""
    top = module.partition(".")[0]
    if top in _own_packages():
        return machine.ROOT
    file = Path(str(sys.modules[top].__file__))
    return file.parents[1] if file.name == "__init__.py" else file.parent


def _own_packages() -> set[str]:
    return {__name__.partition(".")[0], Strategy.__module__.partition(".")[0]}


@functools.lru_cache(maxsize=256)
def _digest(modules: tuple[str, ...], folders: Folders) -> str:
    digest = hashlib.sha256()
    for name, path in decisive_files(modules, folders).items():
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def decisive_files(modules: Iterable[str], folders: Folders) -> dict[str, Path]:
    """The import closure of ``modules``, and data that lies beside it, by name, sorted.

    Args:
        modules: dotted names to begin with.
        folders: top-level packages to follow, and where they lie; others are not followed.
    """
    where = dict(folders)
    sources = [*_closure(modules, where).values()]
    data = {str(path): path for source in sources for path in _data_beside(source)}
    return {_relative(path, where): path for path in sorted({*sources, *data.values()})}


def _closure(modules: Iterable[str], where: dict[str, Path]) -> dict[str, Path]:
    """The files of ``modules`` and of what they import, by name, sorted."""
    files, seen = set[Path](), set[str]()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = None if name in seen else _file_of(name, where)
        seen.add(name)
        if path is not None and path not in files:
            files.add(path)
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            imports = [_absolute(one, package) for one in _imports(path.read_bytes())]
            waiting += [name.rpartition(".")[0], *imports]
    return {_relative(path, where): path for path in sorted(files)}


def _absolute(name: str, package: str) -> str:
    """The full name of what a module of a package imports; empty beyond the top of it."""
    try:
        return importlib.util.resolve_name(name, package)
    except ImportError:
        return ""


def _relative(path: Path, where: dict[str, Path]) -> str:
    roots = [root for root in where.values() if path.is_relative_to(root)]
    return path.relative_to(roots[0]).as_posix()


def _file_of(module: str, where: dict[str, Path]) -> Path | None:
    root = where.get(module.partition(".")[0])
    if root is None:
        return None
    path = root.joinpath(*module.split("."))
    choices = (path / "__init__.py", path.with_name(f"{path.name}.py"))
    return next((choice for choice in choices if choice.is_file()), None)


@functools.lru_cache(maxsize=512)
def _imports(source: bytes) -> tuple[str, ...]:
    """Names of all that a file imports; of ``from a import b`` both ``a`` and ``a.b``.

    Relative ones begin with dots. A file that is no Python, which a user's may be, has none.
    """
    names: list[str] = []
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            inside = base if base.endswith(".") else f"{base}."
            names += [base, *(f"{inside}{alias.name}" for alias in node.names)]
    return tuple(names)


def _data_beside(source: Path) -> Iterator[Path]:
    """Files that are no code, in the folder of a package that is hashed."""
    if source.name == "__init__.py":
        for path in source.parent.iterdir():
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                yield path
