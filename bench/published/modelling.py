"""A published point, modelled: what the simulator says for its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from bench.cells import machine
from bench.devices import accelerators
from bench.devices.accelerators import Accelerator
from bench.published.figures import moments, requested
from bench.published.heads import HEADS
from bench.published.language import LANGUAGE
from bench.published.layers import freed_by_offload, kept_by_a_layer
from bench.published.operators import OPERATORS
from bench.published.ranks import reserved_by_a_rank
from bench.published.subject import Builder, Recording, record
from bench.published.toys import TOYS
from bench.published.vision import VISION
from bench.simulate import scratch
from bench.simulate.fit import around
from bench.store.published import UNITS, Configuration, Point, Search, error_of
from strategies.profiling.caching_allocator import OutOfMemoryError

SUBJECTS: dict[str, Builder] = {**OPERATORS, **HEADS, **TOYS, **LANGUAGE, **VISION}
CELLS = {"layer": kept_by_a_layer, "offloaded": freed_by_offload, "rank": reserved_by_a_rank}
"""Subjects that are made of simulated cells, and are no loop."""
_UPDATED = ("torch_version", "python_version", "machine_id", "machine", "commit", "dirty")


def modelled(point: Point) -> Point:
    """The point with its modelled figure and its error; the same point if neither changed.

    Raises:
        ValueError: its configuration cannot be built.
    """
    figure = figure_of(point)
    if point.modelled is not None and abs(figure - point.modelled) <= 1e-9 * abs(figure):
        return point
    provenance = machine.provenance(point.schema_version, point.seed)
    changed: dict[str, Any] = {name: provenance[name] for name in _UPDATED}
    changed["started_at_utc"] = provenance["started_at_utc"]
    error = error_of(figure, point.published)
    return msgspec.structs.replace(point, **changed, modelled=figure, error_fraction=error)


def figure_of(point: Point) -> float:
    """What is modelled, in the point's unit."""
    configuration = point.configuration
    if configuration.search is not None:
        return largest(point.device, configuration, configuration.search, near=_guess(point))
    return bytes_of(point.device, configuration) / UNITS[point.unit]


def _guess(point: Point) -> float:
    """Where the largest may be: what was modelled before, or what is published."""
    return point.published if point.modelled is None else point.modelled


def bytes_of(device: str, configuration: Configuration) -> int:
    """The quantity of a configuration, in bytes.

    Raises:
        ValueError: no such subject, or no such moment.
    """
    if configuration.subject in CELLS:
        return CELLS[configuration.subject](configuration.options)
    accelerator = accelerators.get(device)
    recording = _recorded(configuration, configuration.options, accelerator)
    if configuration.requested:
        return requested(recording).figure(configuration.quantity)
    workspaces = recording.workspaces(accelerator)
    return moments(recording, workspaces=workspaces).figure(configuration.quantity)


def _recorded(
    configuration: Configuration, options: Mapping[str, Any], accelerator: Accelerator
) -> Recording:
    kernels = scratch.on(accelerator)
    return record(_builder(configuration), options, configuration.steps, kernels)


def _builder(configuration: Configuration) -> Builder:
    if configuration.subject not in SUBJECTS:
        known = ", ".join((*SUBJECTS, *CELLS))
        raise ValueError(f"no subject {configuration.subject!r}; there are {known}")
    return SUBJECTS[configuration.subject]


def largest(device: str, configuration: Configuration, search: Search, *, near: float) -> int:
    """The largest value of an option, of those that were tried, with which the loop fits.

    0 if not even the lowest does. Where ``near`` is the answer, two loops are simulated: this one
    and the next larger; every other answer takes about twice the logarithm of the distance.
    """
    accelerator = accelerators.get(device)
    capacity_bytes = accelerator.memory_bytes - accelerators.CONTEXT_BYTES

    def fits(value: int) -> bool:
        options = {**configuration.options, search.option: value}
        recording = _recorded(configuration, options, accelerator)
        workspaces = recording.workspaces(accelerator)
        try:
            moments(recording, workspaces=workspaces, capacity_bytes=capacity_bytes)
        except OutOfMemoryError:
            return False
        return True

    values = range(search.lowest, search.highest + 1, search.step)
    expected = round((near - search.lowest) / search.step) + 1
    fitting = around(expected, lambda count: fits(values[count - 1]), len(values))
    return values[fitting - 1] if fitting else 0
