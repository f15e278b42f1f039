"""Ways to run a block: modes, and the operators that they keep or run again. No torch.

Made by `profiling.operators`; read by `solvers.selective_ops`. Operators are numbered
in the order in which the block's forward dispatches them.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Collection, Iterable, Mapping

PS = 1e12
"""Picoseconds in a second."""
COMPILED, PARTITIONED = "compiled", "partitioned"
_COMPILATION = re.compile(rf"^({COMPILED}|{PARTITIONED})\((\d|[1-9]\d|100)\)$", re.ASCII)
NUMBERS = r"\d+(?:@\w+)?(?:,\d+(?:@\w+)?)*"
"""What stands between the brackets of a mode: operators, some with the tier that they rest on."""
_KEEP = re.compile(rf"^keep\(({NUMBERS})\)$", re.ASCII)


def keep(positions: Iterable[int], away: Collection[int] = (), tier: str = "") -> str:
    """The name of the op policy that keeps these operators' outputs: ``keep(2,5@host)``.

    Args:
        positions: of the operators.
        away: those of them whose outputs rest elsewhere between forward and backward.
        tier: where that is.
    """
    numbers = (f"{i}@{tier}" if i in away else f"{i}" for i in sorted(positions))
    return f"keep({','.join(numbers)})"


def kept_by(name: str) -> frozenset[int] | None:
    """The operators that ``keep(…)`` keeps, wherever; ``None`` for another name."""
    return frozenset(places) if (places := _places(name)) else None


def away_by(name: str) -> frozenset[int]:
    """The operators that ``keep(…)`` keeps elsewhere than on the device."""
    return frozenset(number for number, tier in _places(name).items() if tier)


def tiers_of(name: str) -> frozenset[str]:
    """Where ``keep(…)`` sends what it keeps."""
    return frozenset(tier for tier in _places(name).values() if tier)


@functools.lru_cache(maxsize=1024)  # a schedule asks for every block
def _places(name: str) -> Mapping[int, str]:
    """Where each output is that ``keep(…)`` keeps, by operator; empty: on the device."""
    match = _KEEP.match(name)
    parts = (each.partition("@") for each in match.group(1).split(",")) if match else ()
    return {int(number): tier for number, _, tier in parts}


@dataclasses.dataclass(frozen=True)
class Compilation:
    """A block that is compiled by itself: ``compiled(50)``, ``partitioned(50)``.

    Attributes:
        how: ``compiled``: into kernels; ``partitioned``: the operators of the graphs that the
            compiler cut run one by one.
        per_cent: of what the compiler would save by itself, which it may save.
    """

    how: str
    per_cent: int

    @classmethod
    def parse(cls, name: str) -> Compilation | None:
        """Read a mode's name; ``None`` for another one."""
        match = _COMPILATION.match(name)
        return cls(match.group(1), int(match.group(2))) if match else None

    @property
    def name(self) -> str:
        """The mode's name."""
        return f"{self.how}({self.per_cent})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mode:
    """One way to run a block so that its backward can follow.

    *Working* bytes are the most alive above the bytes at the start.

    Attributes:
        name: ``all`` (autograd keeps what it needs), an op policy (``core``, ``products``), or a
            compilation (``compiled(50)``).
        saved_bytes: what is kept between forward and backward, the block's own input and output
            not counted.
        keeps_input: the block's input is kept for it.
        keeps_output: the block's output is kept for it.
        forward_working_bytes: during forward.
        backward_working_bytes: during backward, recompute inside the block included.
        backward_flops: of one backward, recompute inside the block included; what a compiler
            recomputes is not counted.
        recompute_flops: the part of ``backward_flops`` that repeats forward work.
        recompute_s: the time that this repeated work takes; where a block has compiled modes, what
            the mode takes longer than the fastest of them.
        away_bytes: the part of ``saved_bytes`` that leaves the device when the block has run, and
            is back before its backward.
    """

    name: str
    saved_bytes: int
    keeps_input: bool
    keeps_output: bool
    forward_working_bytes: int
    backward_working_bytes: int
    backward_flops: int
    recompute_flops: int = 0
    recompute_s: float = 0.0
    away_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator of a block's forward.

    Attributes:
        name: ``addmm``, ``gelu`` …
        output_bytes: of the storages that it makes.
        time_ps: what running it again takes, in picoseconds: whole numbers, whose sums are exact; 0
            for one that a recompute never reaches.
        flops: the same, counted.
        keepable: its output can be kept: it makes storages of its own, which nothing writes to
            later, which are not the block's output, and which a recompute asks for.
        random: it draws random numbers. Of two that do, the second must not run again if the first
            does not: it would draw other numbers.
        portable: its output, if kept, can rest elsewhere: plain tensors, each the whole of its
            memory.
    """

    name: str
    output_bytes: int
    time_ps: int
    flops: int
    keepable: bool
    random: bool
    portable: bool = True


@dataclasses.dataclass(frozen=True)
class Moment:
    """The most alive while one operator runs, above what was alive at the start of its pass.

    Attributes:
        alive_bytes: if nothing is kept.
        more: for each operator whose output would be alive besides, if kept: its number and bytes.
    """

    alive_bytes: int
    more: tuple[tuple[int, int], ...]

    def with_kept(self, kept: frozenset[int]) -> int:
        """Bytes alive if the outputs of ``kept`` are."""
        return self.alive_bytes + sum(size for index, size in self.more if index in kept)


@dataclasses.dataclass(frozen=True)
class BlockOperators:
    """A block's operators, and what is alive as they run.

    Attributes:
        operators: by number.
        forward: moments of a forward under a checkpoint.
        backward: moments of the recompute and the backward that follow it; kept outputs count from
            the start of it until the recompute has come to them.
        checkpoint_bytes: what the checkpoint itself keeps (random state).
        backward_flops: of recompute and backward together, if nothing is kept.
        fixed_ps: time of a recompute that is no operator's: copies of running statistics.
    """

    operators: tuple[Operator, ...]
    forward: tuple[Moment, ...]
    backward: tuple[Moment, ...]
    checkpoint_bytes: int
    backward_flops: int
    fixed_ps: int = 0

    def valid(self, kept: frozenset[int] | None) -> bool:
        """Whether these outputs can be kept together, gradients staying what they are."""
        if kept is None or not all(
            i < len(self.operators) and self.operators[i].keepable for i in kept
        ):
            return False
        random = [i for i, operator in enumerate(self.operators) if operator.random]
        again = [i for i in random if i not in kept]
        return not any(i < j for i in random if i in kept for j in again)

    @functools.cached_property
    def recompute_s(self) -> float:
        """Time of a recompute that finds nothing kept."""
        return (self.fixed_ps + sum(operator.time_ps for operator in self.operators)) / PS

    def lasting(self, recompute_s: float) -> BlockOperators:
        """The same with a recompute of that time, shared out as the operators' own times were."""
        factor = recompute_s / self.recompute_s if self.recompute_s else 1.0
        operators = tuple(
            dataclasses.replace(op, time_ps=round(op.time_ps * factor)) for op in self.operators
        )
        fixed_ps = round(self.fixed_ps * factor)
        return dataclasses.replace(self, operators=operators, fixed_ps=fixed_ps)

    def needing(self, more_bytes: int) -> BlockOperators:
        """The same with a backward that needs so many bytes more."""
        moments = (Moment(one.alive_bytes + more_bytes, one.more) for one in self.backward)
        return dataclasses.replace(self, backward=tuple(moments))

    def holding(self, more_bytes: int) -> BlockOperators:
        """The same with a checkpoint that keeps so many bytes more."""
        return dataclasses.replace(self, checkpoint_bytes=self.checkpoint_bytes + more_bytes)

    def mode(self, name: str) -> Mode:
        """The block under the op policy of that name."""
        kept = kept_by(name) or frozenset()
        kept_bytes = sum(self.operators[index].output_bytes for index in kept)
        saved_flops = sum(self.operators[index].flops for index in kept)
        again = [op for index, op in enumerate(self.operators) if index not in kept]
        most_bytes = max(moment.with_kept(kept) for moment in self.backward)
        leaving = [self.operators[i] for i in away_by(name)]
        return Mode(
            name=name,
            saved_bytes=kept_bytes + self.checkpoint_bytes,
            keeps_input=True,
            keeps_output=False,
            forward_working_bytes=max(moment.with_kept(kept) for moment in self.forward),
            backward_working_bytes=max(0, most_bytes - kept_bytes),
            backward_flops=self.backward_flops - saved_flops,
            recompute_flops=sum(operator.flops for operator in again),
            recompute_s=(self.fixed_ps + sum(operator.time_ps for operator in again)) / PS,
            away_bytes=sum(op.output_bytes for op in leaving if op.portable),
        )
