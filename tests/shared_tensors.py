"""Random tensors that pass beside a chain, or that others than its blocks hold: for the solvers."""

import dataclasses
import random

from strategies.schedules.profile import Shared


def some(rng, places, chance, without=()):
    return tuple(p for p in places if p not in without and rng.random() < chance)


def random_shared(rng, blocks, number, boundary):
    """Any life that a forward can show: the model holds it while anybody is given it or saves it.

    It may be a boundary that was there, and read, before it became one.
    """
    born = rng.randint(-1, max(-1, blocks - 2)) if boundary is None else boundary - 1
    first = born if boundary is None else max(-1, born - rng.choice((0, 0, 0, 1, 2)))
    own = () if boundary is None else (boundary - 1, boundary)
    chance = rng.choice((0.2, 0.5, 0.9))
    saved_by = some(rng, range(max(first, 0), blocks), chance, own)
    read_by = some(rng, range(first + 1, blocks), chance, own[1:])
    between = some(rng, range(max(first, 0) + 1, blocks + 1), 0.15)
    seen = max((born + len(own[1:]), *saved_by, *read_by, *(place - 1 for place in between)))
    return Shared(
        number=number,
        size_bytes=rng.randint(1, 20),
        boundary=boundary,
        born=born,
        until=rng.randint(seen + 1, blocks + 2),
        saved_by=saved_by,
        read_by=read_by,
        between=between,
    )


def sharing(profile, seed):
    """The same chain with up to five such tensors."""
    rng, blocks = random.Random(seed), len(profile.blocks)
    places = [
        *rng.sample(range(blocks), rng.randint(0, min(2, blocks))),
        *[None] * rng.randint(0, 3),
    ]
    shared = (random_shared(rng, blocks, *numbered) for numbered in enumerate(places))
    keeps = rng.random() < 0.3
    return dataclasses.replace(profile, shared=tuple(shared), head_keeps_output=keeps)
