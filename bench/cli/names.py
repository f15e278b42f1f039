"""Names that nothing has are refused before PyTorch is loaded, which takes more than a second.

They are read from the source text: a name that is written nowhere belongs to nothing. One that is
written may still belong to nothing; the registries say so, later.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORKLOADS, STRATEGIES = "bench/workloads", ("strategies", "strategies/peers")
GROUP = "ckpt_bench.strategies"
_NAME_OF_A_CLASS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SPEC = re.compile(r"\s*(\w+)\s*(\(.*)?", re.DOTALL)


def check(arguments: Sequence[str]) -> None:
    """Look at what a command line says after ``--workload``, ``--model`` and ``--strategy``.

    Raises:
        ValueError: there is no such workload, or no such strategy; says what there is.
    """
    checks: Mapping[str, Callable[[str], None]] = {
        "--workload": check_workload,
        "--model": check_workload,
        "--strategy": check_strategy,
    }
    for option, text in _given(arguments):
        if option in checks:
            checks[option](text)


def check_workload(name: str) -> None:
    """Refuse the name of no workload; what has a colon or a dot is no workload of ours.

    Raises:
        ValueError: names those that there are.
    """
    if re.fullmatch(r"[\w-]+", name) and name not in (known := set(workloads())):
        hint = "".join(f" Did you mean {close!r}?" for close in _close(name, known))
        raise ValueError(f"no workload {name!r}.{hint} There are {_listed(known)}")


def check_strategy(spec: str) -> None:
    """Refuse a specification that begins with the name of no strategy.

    Raises:
        ValueError: names those that there are.
    """
    match = _SPEC.fullmatch(spec)
    name = match[1] if match else ""
    known = set(strategies())
    if name and name not in known and name not in classes():
        hint = "".join(f" (did you mean {close!r}?)" for close in _close(name, known))
        raise ValueError(f"unknown strategy {name!r}{hint}; there are {_listed(known)}")


def workloads() -> Iterator[str]:
    """Texts that are given as ``name`` where workloads are defined."""
    for tree in _trees(WORKLOADS):
        for node in ast.walk(tree):
            match node:
                case ast.keyword(arg="name", value=ast.Constant(value=str(text))):
                    yield text
                case ast.AnnAssign(target=ast.Name(id="name"), value=ast.Constant(value=str(text))):
                    yield text


def strategies() -> Iterator[str]:
    """The files of strategies, which have their names, and what other distributions declare."""
    for folder in STRATEGIES:
        yield from (path.stem for path in _files(folder))
    yield from (entry.name for entry in entry_points(group=GROUP))


def classes() -> Iterator[str]:
    """Names by the rule of `strategies.Strategy.name`, of every class in a file of strategies."""
    for folder in STRATEGIES:
        for tree in _trees(folder):
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    yield _NAME_OF_A_CLASS.sub("_", node.name).lower()


def _trees(folder: str) -> Iterator[ast.Module]:
    return (ast.parse(path.read_text()) for path in _files(folder))


def _files(folder: str) -> list[Path]:
    return [path for path in sorted((ROOT / folder).glob("*.py")) if path.stem != "__init__"]


def _given(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    for place, argument in enumerate(arguments):
        option, sign, value = argument.partition("=")
        yield option, value if sign else "".join(arguments[place + 1 : place + 2])


def _close(name: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, sorted(known), n=1)


def _listed(known: Iterable[str]) -> str:
    return ", ".join(sorted(known))
