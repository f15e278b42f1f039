"""Memory over one modelled step, under several strategies on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bench.cells.cell import Cell
from bench.report import canvas
from bench.report.display import sized
from bench.report.timeline import COLOURS, PHASE_COLOURS, thin
from bench.store.timeline import Timeline
from bench.studies.timeline import profile_cell

WORKLOAD, DEVICE = "gpt-mini", "sim:l4-24gb"
SPECS = ("none", "sqrt")
_COLUMNS = 100  # enough to see a block, and a small file
_MEGABYTE = 1e6


def figure(specs: Sequence[str] = SPECS, workload: str = WORKLOAD, device: str = DEVICE) -> Figure:
    """One panel a strategy, with the same vertical axis; traced on fake tensors."""
    cells = [Cell(workload=workload, spec=spec, device=device, rounds=0) for spec in specs]
    timelines = [profile_cell(cell).timeline for cell in cells]
    picture, panels = canvas.new(10.0, 4.2, len(specs))
    for axes, spec, timeline in zip(panels, specs, timelines, strict=True):
        _panel(axes, spec, timeline)
        axes.set_ylim(0, 1.1 * max(one.peak.size_bytes for one in timelines) / _MEGABYTE)
    panels[0].set_ylabel("Alive, MB (10⁶ bytes), modelled")
    _legends(panels[-1], timelines)
    picture.suptitle(f"{workload} on {device}: memory over one step", fontsize=11)
    return picture


def _panel(axes: Axes, spec: str, timeline: Timeline) -> None:
    indices = thin(timeline.positions, timeline.totals, _COLUMNS)
    places = np.asarray(timeline.positions)[indices]
    present = {name: counts for name, counts in timeline.series.items() if any(counts)}
    counts = [np.asarray(series)[indices] / _MEGABYTE for series in present.values()]
    colours = [COLOURS[name] for name in present]
    axes.stackplot(places, counts, colors=colours, step="post", linewidth=0)
    for phase in timeline.phases:
        axes.axvspan(phase.begin, phase.end, ymin=0.97, color=PHASE_COLOURS[phase.name], lw=0)
    axes.set_title(f"{spec}: peak {sized(timeline.peak.size_bytes)}", fontsize=9, loc="left")
    axes.set(xlabel=timeline.axis_label.partition(" (")[0], xlim=(places[0], places[-1]))


def _legends(axes: Axes, timelines: Sequence[Timeline]) -> None:
    """What is stacked, from the top down, and what the strip above it says."""
    present = {name for one in timelines for name, counts in one.series.items() if any(counts)}
    stacked = [Patch(color=COLOURS[name], label=name) for name in COLOURS if name in present]
    phases = {phase.name for one in timelines for phase in one.phases}
    strip = [
        Patch(color=PHASE_COLOURS[name], label=name) for name in PHASE_COLOURS if name in phases
    ]
    style: dict[str, Any] = {
        "frameon": False,
        "fontsize": 8,
        "title_fontsize": 8,
        "alignment": "left",
    }
    style |= {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    above = axes.legend(handles=stacked[::-1], title="Bytes of", **style)
    axes.add_artist(above)
    above.set_clip_on(False)  # or the layout would leave it no room
    style |= {"loc": "lower left", "bbox_to_anchor": (1.01, 0.0)}
    axes.legend(handles=strip, title="Phases", **style)
