"""Random chain profiles, and every nested plan on them: what the solvers are compared with."""

import dataclasses
import functools
import itertools
import random

from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.schedules.modes import Mode
from strategies.schedules.profile import BlockCost, ChainProfile
from strategies.schedules.schedule import Schedule

NAMES = ("all", "core", "products")


def random_mode(rng, name, output_bytes, big):
    saved_bytes = rng.randint(0, big)
    return Mode(
        name=name,
        saved_bytes=saved_bytes,
        keeps_input=rng.random() < 0.6,
        keeps_output=rng.random() < 0.3,
        forward_working_bytes=saved_bytes + output_bytes + rng.randint(0, big),
        backward_working_bytes=rng.randint(0, 2 * big),
        backward_flops=0,
        recompute_s=0 if name == "all" else rng.randint(0, 8),
    )


def random_block(rng, modes, big):
    output_bytes = rng.randint(1, big)
    block = BlockCost(
        modes=tuple(random_mode(rng, name, output_bytes, big) for name in NAMES[:modes]),
        output_bytes=output_bytes,
        unsaved_working_bytes=output_bytes + rng.randint(0, big),
        recompute_working_bytes=rng.randint(0, 3 * big),
        gradient_bytes=rng.randint(0, big // 2),
        forward_flops=0,
        last_recompute_flops=0,
        forward_s=rng.randint(1, 9),
        backward_s=rng.randint(1, 9),
        last_recompute_s=rng.randint(0, 9),
    )
    again_bytes = 2 * block.recompute_working_bytes // 3
    return dataclasses.replace(block, again_working_bytes=again_bytes)


def random_profile(seed, blocks, modes=1, big=20, borders=(), group_bytes=0):
    """Unlike blocks. Sizes are what a real one's can be: a forward needs room for what it makes."""
    rng = random.Random(seed)
    return ChainProfile(
        blocks=tuple(random_block(rng, modes, big) for _ in range(blocks)),
        input_bytes=rng.randint(1, big),
        resident_bytes=rng.randint(0, 99),
        head_saved_bytes=rng.randint(0, 9),
        head_working_bytes=rng.randint(0, 9),
        head_backward_working_bytes=rng.randint(0, 9),
        tail_saved_bytes=rng.randint(0, 9),
        tail_keeps_input=rng.random() < 0.5,
        tail_working_bytes=rng.randint(0, 2 * big),
        tail_backward_working_bytes=rng.randint(0, 2 * big),
        tail_gradient_bytes=rng.randint(0, 5),
        group_bytes=group_bytes,
        borders=borders,
    )


def with_copies(profile, seed):
    """Some blocks write to buffers."""
    rng = random.Random(seed)
    blocks = []
    for block in profile.blocks:
        size_bytes, operators = rng.choice((0, 4, 11)), block.operators
        if operators is not None:
            checkpoint_bytes = operators.checkpoint_bytes + size_bytes
            operators = dataclasses.replace(operators, checkpoint_bytes=checkpoint_bytes)
        blocks.append(dataclasses.replace(block, copies_bytes=size_bytes, operators=operators))
    return dataclasses.replace(profile, blocks=tuple(blocks))


@functools.cache
def nestings(begin, end, *, inner=False):
    """Every way to run blocks begin … end − 1; a group's last block is bare."""
    if begin == end:
        return ((),)
    found = [(begin, *rest) for rest in nestings(begin + 1, end, inner=inner)]
    for cut in range(begin + 1, end + (not inner)):
        for group in nestings(begin, cut, inner=True):
            found += [(group, *rest) for rest in nestings(cut, end, inner=inner)]
    return tuple(found)


def crosses(plan, borders):
    return plans.split(plan, borders) != plan


def namings(plan, blocks, modes):
    """Every choice of modes: blocks in groups have only the first."""
    return itertools.product(*(NAMES[: modes if i in plan else 1] for i in range(blocks)))


def outcomes(profile, modes=1):
    """Peak and repeated time of every schedule."""
    blocks = len(profile.blocks)
    for plan in nestings(0, blocks):
        if not crosses(plan, profile.borders):
            for names in namings(plan, blocks, modes):
                prediction = predict(profile, Schedule(plan, names))
                yield prediction.peak_bytes, prediction.recompute_s
