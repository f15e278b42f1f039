"""Finds strategies: the files of `strategies` and of `strategies/peers`, and entry points."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import functools
import importlib
import inspect
import numbers
import pkgutil
import types
from collections.abc import Iterable, Mapping
from typing import Any

from strategies.contract import foreign
from strategies.contract.peer import Peer
from strategies.contract.strategy import Strategy

OWN, PEERS = "strategies", "strategies.peers"
_LARGEST = 2**63 - 1


@functools.cache
def classes() -> Mapping[str, type[Strategy]]:
    """Every strategy of this project by name, in alphabetical order; looked for once in a process.

    Raises:
        RuntimeError: two of them have the same name.
    """
    return _by_name(_defined_in(OWN))


@functools.cache
def peers() -> Mapping[str, type[Peer]]:
    """Other people's implementations, which nothing tries unless it is asked to.

    Raises:
        RuntimeError: one of them has a name that is taken.
    """
    by_name = _by_name([*classes().values(), *_defined_in(PEERS)])
    return types.MappingProxyType({n: c for n, c in by_name.items() if issubclass(c, Peer)})


def _by_name(found: Iterable[type[Strategy]]) -> Mapping[str, type[Strategy]]:
    by_name: dict[str, type[Strategy]] = {}
    for cls in found:
        name = cls.name()
        other = by_name.setdefault(name, cls)
        if other is not cls:
            raise RuntimeError(
                f"two strategies are named {name!r}: {other.__module__} and {cls.__module__}"
            )
    return types.MappingProxyType(dict(sorted(by_name.items())))


def _defined_in(package: str) -> list[type[Strategy]]:
    """The strategies of a package's files, folders aside."""
    own = []
    folder = importlib.import_module(package).__path__  # of `OWN`, which imports this module
    files = (info for info in pkgutil.iter_modules(folder, f"{package}.") if not info.ispkg)
    for info in files:
        module = importlib.import_module(info.name)
        own += [v for v in vars(module).values() if _is_strategy_of(v, info.name)]
    return own


def _is_strategy_of(value: object, module: str) -> bool:
    is_class = isinstance(value, type) and issubclass(value, Strategy)
    return is_class and value.__module__ == module and not inspect.isabstract(value)


def available() -> tuple[str, ...]:
    """Names of all strategies, those of other distributions too; none of these is loaded.

    Raises:
        ValueError: see `foreign.declared`.
    """
    return tuple(sorted({*classes(), *foreign.declared(_taken())}))


def declared() -> Mapping[str, str]:
    """Strategies of other distributions, by name: whose they are. None is loaded.

    Raises:
        ValueError: see `foreign.declared`.
    """
    entries = foreign.declared(_taken())
    return {name: foreign.origin(entry) for name, entry in sorted(entries.items())}


def _taken() -> Mapping[str, type[Strategy]]:
    return {**classes(), **peers()}


def find(name: str) -> type[Strategy]:
    """The class of that name: our own, a peer's, or another distribution's, which is loaded.

    Raises:
        ValueError: there is none, or it cannot be loaded; says what there is.
    """
    if name in classes():
        return classes()[name]
    if name in peers():
        return peers()[name]
    entries = foreign.declared(_taken())
    if name in entries:
        return foreign.load(entries[name])
    known = [*available(), *peers()]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(f"unknown strategy {name!r}{hint}; there are {', '.join(known)}")


def get(spec: str | Strategy, **params: Any) -> Strategy:
    """A strategy from its name or its specification.

    Args:
        spec: ``"sqrt"``, ``"every_k(k=4)"``, ``"offload(over=compressed(codec=int8))"``.
        params: parameters by name; they win over those in ``spec``.

    Raises:
        ValueError: an unknown name or parameter, or an impossible value; says what is valid.
    """
    if isinstance(spec, Strategy):
        return _make(type(spec), {**spec.params(), **params}) if params else spec
    name, parameters = _parse(spec)
    return _make(find(name), {**parameters, **params})


def _parse(spec: str) -> tuple[str, dict[str, Any]]:
    problem = f"cannot read strategy {spec!r}; write a name, or name(parameter=value, …)"
    try:
        tree = ast.parse(spec.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(problem) from error
    if isinstance(tree, ast.Name):
        return tree.id, {}
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name) or tree.args:
        raise ValueError(problem)
    names = [str(k.arg) for k in tree.keywords]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"strategy {spec!r} gives {twice} twice")
    return tree.func.id, {str(k.arg): _value(k.value, problem) for k in tree.keywords}


def _value(node: ast.expr, problem: str) -> Any:
    if isinstance(node, (ast.Name, ast.Call)):
        return ast.unparse(node)  # a word, or the specification of the strategy below
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise ValueError(problem) from error


def _make(cls: type[Strategy], params: dict[str, Any]) -> Strategy:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key, value in params.items():
        if key not in fields:
            has = f"it has {', '.join(fields)}" if fields else "it has none"
            raise ValueError(f"strategy {cls.name()!r} has no parameter {key!r}; {has}")
        params[key] = _coerce(cls, fields[key], value)
    return cls(**params)


def _coerce(cls: type[Strategy], field: dataclasses.Field[Any], value: Any) -> Any:
    """``value`` as the field's own type; text (from a command line) is read as a literal."""
    kind = type(field.default)
    if kind is not str and isinstance(value, str):
        # What is no literal stays text; the type check below says so.
        with contextlib.suppress(ValueError, TypeError, SyntaxError):
            value = ast.literal_eval(value)
    if kind is float and type(value) is int:
        value = float(value)
    if kind is str and not isinstance(value, bool) and isinstance(value, numbers.Real):
        value = str(value)  # a number of bytes
    if field.default is not None and type(value) is not kind:
        raise ValueError(
            f"{cls.name()}: {field.name} must be of type {kind.__name__}, not {value!r}"
        )
    if type(value) is int and abs(value) > _LARGEST:
        raise ValueError(f"{cls.name()}: {field.name} must be within 64 bits")
    return value
