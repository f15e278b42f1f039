"""Chain profiles of models that do not exist: seeded, unlike blocks, of any length."""

from __future__ import annotations

import random

from strategies.schedules.modes import Mode
from strategies.schedules.profile import BlockCost, ChainProfile

MODES = 2


def chain(blocks: int, seed: int = 0) -> ChainProfile:
    """A chain of so many blocks; a longer one of the same seed begins with the shorter one.

    Bytes and seconds are drawn around those of a transformer block (Korthikanti et al. 2022: of
    34 boundaries that it saves and 5·a·s/h for its attention core, the latter may be recomputed).
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    input_bytes = _bytes(rng, 1.0)
    return ChainProfile(
        blocks=tuple(_block(rng) for _ in range(blocks)),
        input_bytes=input_bytes,
        resident_bytes=_bytes(rng, 1.0),
        head_saved_bytes=0,
        head_working_bytes=input_bytes,
        head_backward_working_bytes=input_bytes,
        tail_saved_bytes=input_bytes,
        tail_keeps_input=True,
        tail_working_bytes=2 * input_bytes,
        tail_backward_working_bytes=2 * input_bytes,
        tail_gradient_bytes=0,
        group_bytes=5056,
    )


def _bytes(rng: random.Random, boundaries: float) -> int:
    return int(boundaries * 2**20 * rng.uniform(0.5, 2))


def _block(rng: random.Random) -> BlockCost:
    output_bytes = _bytes(rng, 1.0)
    core_bytes, rest_bytes = _bytes(rng, 15.0), _bytes(rng, 15.0)
    forward_s = rng.uniform(0.5, 2) * 1e-3
    return BlockCost(
        modes=(
            _mode("all", rest_bytes + core_bytes, output_bytes),
            _mode("core", rest_bytes, output_bytes, core_bytes, 0.1 * forward_s),
        ),
        output_bytes=output_bytes,
        unsaved_working_bytes=output_bytes + core_bytes,
        recompute_working_bytes=rest_bytes + core_bytes + 2 * output_bytes,
        gradient_bytes=0,
        forward_flops=0,
        last_recompute_flops=0,
        forward_s=forward_s,
        backward_s=2 * forward_s,
        last_recompute_s=0.8 * forward_s,
    )


def _mode(
    name: str, saved_bytes: int, output_bytes: int, again_bytes: int = 0, recompute_s: float = 0.0
) -> Mode:
    return Mode(
        name=name,
        saved_bytes=saved_bytes,
        keeps_input=True,
        keeps_output=False,
        forward_working_bytes=saved_bytes + again_bytes + output_bytes,
        backward_working_bytes=again_bytes + 2 * output_bytes,
        backward_flops=0,
        recompute_s=recompute_s,
    )
