"""The mutants: every change that Cosmic Ray's operators make, in an order to take samples in."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cosmic_ray import plugins
from cosmic_ray.commands.init import _all_work_items
from cosmic_ray.mutating import mutate_code
from cosmic_ray.work_item import MutationSpec

ROOT = Path(__file__).parents[2]
FOLDERS = ("strategies/schedules", "strategies/solvers")
GOLDEN = (5**0.5 - 1) / 2
# Numbers are no sets of bits: a shift or a mask for a sum is a TypeError, or far off. Whoever runs
# the line at all sees that, so such mutants would only make the share larger.
ARITHMETIC = "Add|Sub|Mul|Div|FloorDiv|Mod|Pow"
TOO_EASY = re.compile(rf"core/ReplaceBinaryOperator_(({ARITHMETIC})_(?!({ARITHMETIC})$)\w+)")


def files() -> list[str]:
    """What is mutated."""
    paths = (path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py")))
    return [str(path.relative_to(ROOT)) for path in paths if path.name != "__init__.py"]


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        spec: what Cosmic Ray is to do.
        text: the file, changed.
        before: the lines that the change takes away, without their indentation.
        after: and those that it puts there; none if a line is gone.
    """

    spec: MutationSpec
    text: str
    before: str
    after: str

    @property
    def file(self) -> str:
        """Of the project."""
        return str(self.spec.module_path)

    @property
    def lines(self) -> range:
        """That it changes, from 1."""
        return range(self.spec.start_pos[0], self.spec.end_pos[0] + 1)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is called where reasons are given."""
        return self.file, str(self.spec.definition_name or ""), self.before, self.after


def places(names: Sequence[str]) -> list[MutationSpec]:
    """All that could be changed, by file, operator and line; of some no other program comes."""
    items = _all_work_items([Path(name) for name in names], {})
    specs = (item.mutations[0] for item in items)
    return [spec for spec in specs if not TOO_EASY.fullmatch(spec.operator_name)]


def spread(places: Sequence[MutationSpec], seed: int) -> list[MutationSpec]:
    """The same, so that every beginning is spread evenly over files, operators and lines.

    By multiples of the golden ratio from a start that the seed draws, of which any number that
    follow each other fill the interval from 0 to 1 evenly.
    """
    start = random.Random(seed).random()
    order = sorted(range(len(places)), key=lambda number: (start + number * GOLDEN) % 1)
    return [places[number] for number in order]


def mutants(places: Iterable[MutationSpec]) -> Iterator[Mutant]:
    """Those that are Python, and another program than before; each once."""
    seen: set[tuple[str, str]] = set()
    for spec in places:
        mutant = _mutant(spec)
        if mutant is not None and (mutant.file, mutant.text) not in seen:
            seen.add((mutant.file, mutant.text))
            yield mutant


def _mutant(spec: MutationSpec) -> Mutant | None:
    source = (ROOT / spec.module_path).read_text()
    operator = plugins.get_operator(spec.operator_name)(**spec.operator_args)
    text = mutate_code(source, operator, spec.occurrence)
    if text is None or _meaning(text) in (None, _meaning(source)):
        return None
    return Mutant(spec, text, *_changed(source, text))


@functools.lru_cache(maxsize=64)
def _meaning(text: str) -> str | None:
    """A program without its annotations, which no file here evaluates, and without the ``*`` of its
    signatures, which is no operator; ``None``: it is none.
    """
    try:
        tree = ast.parse(text)
        compile(tree, "mutant", "exec")
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation:
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.arguments):
            node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
            node.defaults = [one for one in (*node.defaults, *node.kw_defaults) if one]
            node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
    return ast.dump(tree)


def _changed(source: str, text: str) -> tuple[str, str]:
    lines = list(difflib.ndiff(source.splitlines(), text.splitlines()))
    texts = [(line[0], line[2:].strip()) for line in lines]
    gone, new = ("\n".join(text for sign, text in texts if sign == s and text) for s in "-+")
    return gone, new
