"""Compiles what the solvers run, in a process that ends: every test process would, for itself.

    python tests/warm.py

What is compiled is kept beside the sources; the compiler's memory is not.
"""

import dataclasses

from nested import random_profile

from strategies.schedules import plan as plans
from strategies.schedules.interpreter import predict
from strategies.solvers import hybrid, optimal, optimal_table
from strategies.solvers.optimal_numbers import numbers_of

BLOCKS = 4


def profiles():
    """Times in whole numbers, as tests have them, and in seconds."""
    whole = dataclasses.replace(random_profile(0, BLOCKS, modes=2), link_bytes_per_s=1)
    blocks = [
        dataclasses.replace(
            block,
            forward_s=block.forward_s / 7,
            backward_s=block.backward_s / 7,
            last_recompute_s=block.last_recompute_s / 7,
        )
        for block in whole.blocks
    ]
    return whole, dataclasses.replace(whole, blocks=tuple(blocks))


def main():
    for profile in profiles():
        numbers = numbers_of(profile, 1)
        optimal_table.compiled()(optimal_table.empty(2, len(numbers.firsts), 1), numbers)
        peak_bytes = predict(profile, plans.plain(BLOCKS)).peak_bytes
        for solver in (optimal, hybrid):
            solver.solve(profile, peak_bytes)
            solver.smallest_bytes(profile)


if __name__ == "__main__":
    main()
