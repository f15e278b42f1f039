"""What interpreter and solvers answer on seeded chains, kept in ``known/``: nothing changes unseen.

Whether an answer is right, other tests say, by hand and against every plan there is. These say that
it is still the same, wherever in a step or a table it comes from: a need that is not the largest, a
row that no schedule of theirs is read from. After a change that is meant: ``python answers.py``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nested import random_profile
from shared_tensors import sharing

from strategies.schedules.modes import Mode
from strategies.schedules.profile import BlockCost, ChainProfile
from strategies.schedules.schedule import HOST

FOLDER = Path(__file__).parent / "known"
ASKED = ("interpreter", "optimal_table", "hybrid_table", "milp", "selective_ops")
"""``test_…_answers.py`` each: `QUESTIONS` by name, and the `SEEDS` that they are asked for."""
SHINES_BYTES = 10_000
"""More than all else that a chain here can hold."""

Question = Callable[[int], Any]


@functools.cache
def known(subject: str) -> dict[str, Any]:
    """By question and seed."""
    return dict(json.loads((FOLDER / f"{subject}.json").read_text()))


def plain(answer: Any) -> Any:
    """As it is read back."""
    return json.loads(json.dumps(answer))


def asked(subject: str) -> list[tuple[str, int]]:
    """Every question with its seeds, for a test to be parametrized with."""
    return [(name, int(seed)) for name, seeds in known(subject).items() for seed in seeds]


def write(subject: str) -> None:
    """Ask anew."""
    tests = importlib.import_module(f"test_{subject}_answers")
    found = {
        name: {str(seed): question(seed) for seed in tests.SEEDS}
        for name, question in tests.QUESTIONS.items()
    }
    lines = ",\n".join(
        f'"{name}": {{\n'
        + ",\n".join(f'"{seed}": {json.dumps(answer)}' for seed, answer in some.items())
        + "\n}"
        for name, some in found.items()
    )
    (FOLDER / f"{subject}.json").write_text(f"{{\n{lines}\n}}\n")


def everything(seed: int, blocks: int, modes: int = 2, *, shared: bool = False) -> ChainProfile:
    """A chain of which every figure is another: also those that `random_profile` leaves at zero."""
    rng = random.Random(seed)
    borders = (rng.randint(1, blocks - 1),) if blocks > 1 and rng.random() < 0.3 else ()
    group_bytes = rng.choice((0, 3, 7))
    profile = random_profile(seed, blocks, modes, borders=borders, group_bytes=group_bytes)
    profile = dataclasses.replace(
        profile,
        blocks=tuple(counted(rng, block) for block in profile.blocks),
        head_gradient_bytes=rng.randint(0, 5),
        update_working_bytes=rng.randint(0, 9),
        fixed_s=float(rng.randint(0, 9)),
        head_keeps_output=rng.random() < 0.3,
        link_bytes_per_s=rng.choice((1.0, 4.0, 16.0)),
        link_tier=rng.choice((HOST, "disk")),
    )
    return sharing(profile, seed) if shared else profile


def counted(rng: random.Random, block: BlockCost) -> BlockCost:
    """With FLOPs."""
    return dataclasses.replace(
        block,
        modes=tuple(
            dataclasses.replace(x, recompute_flops=rng.randint(1, 99)) for x in block.modes
        ),
        forward_flops=rng.randint(1, 99),
        last_recompute_flops=rng.randint(1, 99),
    )


def spotlights(profile: ChainProfile) -> Iterator[ChainProfile]:
    """The same with one moment of the step far above all others; and with no moment at all."""
    yield dark(profile)
    for name in working(profile):
        yield dataclasses.replace(profile, **{name: getattr(profile, name) + SHINES_BYTES})
    for index, block in enumerate(profile.blocks):
        for name in working(block):
            brighter = dataclasses.replace(block, **{name: getattr(block, name) + SHINES_BYTES})
            yield with_block(profile, index, brighter)
        for number, name in itertools.product(range(len(block.modes)), working(block.modes[0])):
            yield with_block(profile, index, with_mode(block, number, name))


def working(costs: Any) -> list[str]:
    """The figures that are of a moment."""
    return [f.name for f in dataclasses.fields(costs) if f.name.endswith("_working_bytes")]


def with_block(profile: ChainProfile, index: int, block: BlockCost) -> ChainProfile:
    """One block is another."""
    blocks = (*profile.blocks[:index], block, *profile.blocks[index + 1 :])
    return dataclasses.replace(profile, blocks=blocks)


def with_mode(block: BlockCost, number: int, name: str) -> BlockCost:
    """One mode of a block has its moment."""
    modes = list(block.modes)
    raised = {name: getattr(modes[number], name) + SHINES_BYTES}
    modes[number] = dataclasses.replace(modes[number], **raised)
    return dataclasses.replace(block, modes=tuple(modes))


def dark(costs: ChainProfile | BlockCost | Mode) -> Any:
    """With no need of any moment: what is alive between them is the most."""
    none: dict[str, Any] = dict.fromkeys(working(costs), 0)
    for name in ("blocks", "modes"):
        if hasattr(costs, name):
            none[name] = tuple(map(dark, getattr(costs, name)))
    return dataclasses.replace(costs, **none)


def steps(row: Any) -> list[tuple[int, float]]:
    """Where a row that falls has another value, and which."""
    values = [float(value) for value in row]
    return [
        (at, value)
        for at, value in enumerate(values)
        if value != float("inf") and (at == 0 or values[at - 1] != value)
    ]


if __name__ == "__main__":
    for each in ASKED:
        write(each)
