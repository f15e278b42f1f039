"""A schedule: a plan, and for each block how it runs and where its boundary rests."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence

from strategies.schedules import plan as plans
from strategies.schedules.modes import NUMBERS, Compilation, away_by, tiers_of
from strategies.schedules.plan import Node, Plan

ALL = "all"
HOST = "host"

_TOKEN = re.compile(
    r"\s*(?:(?P<open>\[)|(?P<close>\])(?:@(?P<tier>\w+))?"
    rf"|(?P<block>\d+)(?::(?P<mode>\w+(?:\({NUMBERS}\))?))?)",
    re.ASCII,
)


def runs_again(name: str) -> bool:
    """Whether a block of a recompute group can run in a mode, which keeps nothing for later."""
    compilation = Compilation.parse(name)
    return name == ALL or (compilation is not None and compilation.per_cent == 100)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """All that an executor needs, and what is solved, printed, stored and read back. Pure data.

    Attributes:
        plan: see `strategies.schedules.plan`.
        modes: one name a block, or none at all for ``all`` everywhere: how the block runs (see
            `schedules.modes.Mode`). Blocks in recompute groups run in mode ``all``, or compiled
            without a budget: what an op policy kept when the group is run again would be gone when
            backward needs it, for nested checkpoints keep the graph of the first forward. A mode
            ``keep(2,5@host)`` sends what it keeps of operator 5 off the device, as below.
        offloaded: blocks whose input the schedule itself sends off the device, its transfers
            overlapped with compute (`strategies.storage.overlapped`); each begins a top-level
            group. Other boundaries rest as the strategy's storage says.
        tier: where those go, and what modes send away: ``host`` or ``disk``.

    Raises:
        ValueError: a block in a recompute group has another mode, there is not one mode a block,
            a block is offloaded that begins no top-level group, or there are several tiers.
    """

    plan: Plan
    modes: tuple[str, ...] = ()
    offloaded: frozenset[int] = frozenset()
    tier: str = HOST

    def __post_init__(self) -> None:
        if set(self.modes) <= {ALL}:  # equal schedules are equal values
            object.__setattr__(self, "modes", ())
        self._settle_tier()
        groups = [node for node in self.plan if not isinstance(node, int)]
        self._check_modes(groups)
        elsewhere = self.offloaded - {plans.first(group) for group in groups}
        if elsewhere:
            raise ValueError(
                f"block {min(elsewhere)} begins no top-level group, so its input cannot leave"
            )

    def _settle_tier(self) -> None:
        tiers = frozenset[str]().union(*map(tiers_of, set(self.modes)))
        if not self.offloaded:
            object.__setattr__(self, "tier", min(tiers, default=HOST))
        if tiers - {self.tier}:
            names = " and ".join(sorted(tiers | {self.tier}))
            raise ValueError(f"a schedule has one tier, not {names}")

    def _check_modes(self, groups: Sequence[Node]) -> None:
        count = sum(1 for node in self.plan for _ in plans.leaves(node))
        if self.modes and len(self.modes) != count:
            raise ValueError(f"{len(self.modes)} modes for {count} blocks")
        for index in (index for group in groups for index in plans.leaves(group)):
            if not runs_again(self.mode(index)):
                raise ValueError(
                    f"block {index} is in a recompute group and runs in mode {ALL},"
                    f" not {self.mode(index)}; of compiled modes compiled(100) alone can be there"
                )

    def split(self, borders: Sequence[int]) -> Schedule:
        """Every group cut where it straddles a border; see `plan.split`."""
        return dataclasses.replace(self, plan=plans.split(self.plan, borders))

    def mode(self, index: int) -> str:
        """How block ``index`` runs."""
        return self.modes[index] if self.modes else ALL

    @property
    def sends(self) -> bool:
        """Whether anything of it leaves the device."""
        return bool(self.offloaded) or any(map(away_by, self.modes))

    def render(self) -> str:
        """``0:core 1 [2 3]@host``: modes other than ``all`` and boundaries elsewhere are said."""
        return " ".join(self._written(node, top=True) for node in self.plan)

    def _written(self, node: Node, *, top: bool = False) -> str:
        if isinstance(node, int):
            mode = self.mode(node)
            return f"{node}" if mode == ALL else f"{node}:{mode}"
        inside = " ".join(self._written(child) for child in node)
        leaves = top and plans.first(node) in self.offloaded
        return f"[{inside}]" + (f"@{self.tier}" if leaves else "")

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """The inverse of `render`: ``parse(render(schedule)) == schedule``.

        Raises:
            ValueError: unbalanced brackets, anything but blocks, modes, brackets and tiers, blocks
                out of order, several tiers, or a schedule that is none.
        """
        reading = _Reading(text)
        for token in _tokens(text):
            reading.take(token)
        return reading.schedule()


def _tokens(text: str) -> Iterator[re.Match[str]]:
    position, text = 0, text.rstrip()
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None or not (token["open"] or _ends(text, token.end())):
            raise ValueError(
                "a schedule holds blocks, brackets, :modes and @tiers, as in"
                f" '0:core [1 2]@host', not {text[position:].lstrip()!r}"
            )
        yield token
        position = token.end()


def _ends(text: str, position: int) -> bool:
    """Whether a block or a closed group ends there: ``1core`` is neither."""
    return text[position : position + 1] in ("", " ", "[", "]")


class _Reading:
    """A schedule as far as it is read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.stack: list[list[Node]] = [[]]
        self.modes: list[str] = []
        self.tiers: dict[int, str] = {}

    def take(self, token: re.Match[str]) -> None:
        """One token more."""
        if token["open"]:
            self.stack.append([])
        elif token["close"]:
            self._close(token["tier"])
        else:
            self.stack[-1].append(int(token["block"]))
            self.modes.append(token["mode"] or ALL)

    def _close(self, tier: str | None) -> None:
        if len(self.stack) == 1:
            raise ValueError(f"a bracket closes what none opened in schedule {self.text!r}")
        group = tuple(self.stack.pop())
        self.stack[-1].append(group)
        if tier is None:
            return
        if len(self.stack) > 1 or not group:
            raise ValueError(f"@{tier} follows no top-level group in schedule {self.text!r}")
        self.tiers[plans.first(group)] = tier

    def schedule(self) -> Schedule:
        """The whole of it."""
        if len(self.stack) != 1:
            raise ValueError(f"a bracket is not closed in schedule {self.text!r}")
        tiers = sorted(set(self.tiers.values()))
        if len(tiers) > 1:
            raise ValueError(f"a schedule has one tier, not {' and '.join(tiers)}: {self.text!r}")
        plan = tuple(self.stack[0])
        plans.validate(plan, len(self.modes))
        return Schedule(plan, tuple(self.modes), frozenset(self.tiers), *tiers)
