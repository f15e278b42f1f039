"""What ``python -m bench profile`` prints about a cell, and its files."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import msgspec
import pandas as pd

from bench.cells.cell import Cell
from bench.cli.flags import TextFormat
from bench.cli.printing import slug
from bench.report import timeline as drawing
from bench.run import guarded, planning
from bench.run.blank import where
from bench.store import timelines
from bench.store.json_store import write_atomically
from bench.store.timeline import Timeline
from bench.studies import timeline as profiling
from bench.studies.timeline_parts import Profile
from bench.studies.timeline_stored import stored


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked about a cell.

    Attributes:
        chain: what each block costs, instead of a timeline.
        measured: times of blocks are, on a real device.
        out: folder for pictures and data.
        results: folder that `report` shows.
    """

    cell: Cell
    output: TextFormat
    chain: bool
    measured: bool
    out: str | None
    results: str | None


def answer(payload: bytes) -> bytes:
    """What is printed about a question, which is JSON; files are written."""
    question = msgspec.json.decode(payload, type=Question)
    cell = question.cell
    with guarded.named(cell):
        if question.chain:
            return chain_text(cell, question.output, measured=question.measured).encode()
        step_profile = profiling.profile_cell(cell)
    return timeline_text(question, step_profile).encode()


def timeline_text(question: Question, step_profile: Profile) -> str:
    """A timeline's facts, as JSON or as a paragraph; its files are written."""
    cell, paths = question.cell, list[Path]()
    if question.out is not None:
        paths += write(step_profile.timeline, Path(question.out), stem(cell))
    if question.results is not None:
        timeline = stored(cell, step_profile.timeline)
        paths.append(timelines.write(timeline, Path(question.results)))
    if question.output is TextFormat.text:
        return step_profile.paragraph()
    facts = {**step_profile.facts, "files": [str(path) for path in paths]}
    return json.dumps(facts, indent=2, ensure_ascii=False)


def chain_text(cell: Cell, output: TextFormat, *, measured: bool) -> str:
    """The chain profile of a cell's workload, as JSON or as a table."""
    facts = dataclasses.asdict(planning.profile_cell(cell, measured=measured))
    times = planning.times_of(cell, measured=measured)
    if output is TextFormat.json:
        return json.dumps({"device": cell.device, "times": times, **facts}, indent=2)
    groups = itertools.groupby(enumerate(facts.pop("blocks")), key=lambda item: item[1])
    rows = []
    for block, members in groups:
        numbers = [index for index, _ in members]
        name = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}"
        own = {key: value for key, value in block.items() if key != "modes"}
        rows += [{"blocks": name, "mode": m.pop("name"), **m, **own} for m in block["modes"]]
    terms = "\n".join(f"{key}: {value}" for key, value in facts.items())
    table = pd.DataFrame(rows).set_index(["blocks", "mode"]).T.to_markdown(floatfmt="g")
    head = f"{cell.workload} on {where(cell)}; times are {times}"
    return f"{head}\n\n{table}\n\n{terms}"


def stem(cell: Cell) -> str:
    """``timeline-gpt-mini-every-k-k-4-sim-h100-80gb``."""
    return "-".join(map(slug, ("timeline", cell.workload, cell.spec, cell.device)))


def write(timeline: Timeline, folder: Path, name: str) -> list[Path]:
    """Picture and data, each file at once or not at all; returns where."""
    files = {**drawing.render(timeline), "csv": drawing.csv(timeline).encode()}
    paths = {folder / f"{name}.{kind}": data for kind, data in files.items()}
    for path, data in paths.items():
        write_atomically(path, data)
    return list(paths)
