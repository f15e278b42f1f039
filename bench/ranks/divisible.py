"""Whether a workload can be divided over ranks, before any process starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from bench.ranks import context
from bench.ranks.parallel import Parallel
from bench.ranks.tensor_plans import family_of
from bench.workloads.base import SizedWorkload, Workload


def problem(parallel: Parallel, workload: Workload) -> str | None:
    """Why this workload cannot be divided so, in a sentence, or ``None``."""
    return next(_problems(parallel, workload), None)


def unsized(workload: Workload) -> str:
    """Why a workload that is no `SizedWorkload` cannot be divided."""
    return f"ranks share the workloads of this package, not {workload.name}"


def _problems(parallel: Parallel, workload: Workload) -> Iterator[str]:
    options = workload.options()
    if not isinstance(workload, SizedWorkload):
        yield unsized(workload)
        return
    parts = parallel.replicas * (parallel.parts if parallel.pipeline > 1 else 1)
    if workload.batch % parts:
        yield f"a batch of {workload.batch} does not go into {parts} equal parts"
    if options.get("dropout"):
        yield "several ranks draw other random numbers than one would; set dropout to 0"
    if max(parallel.tensor, parallel.pipeline, parallel.context) > 1:
        yield from _inside(parallel, workload)


def _inside(parallel: Parallel, workload: SizedWorkload) -> Iterator[str]:
    """Of ranks that share more than the parameters."""
    options, family = workload.options(), family_of(workload)
    if family is None:
        yield f"nobody has said how to divide the blocks of a {type(workload).__name__}"
        return
    if parallel.data == "fsdp2" and parallel.pipeline > 1 and not parallel.reshard:
        yield "micro-batches of a pipeline need fsdp2 with reshard=true"
    if parallel.data == "ddp" and parallel.tensor > 1:
        yield "ddp keeps whole matrices, and tp divides them; join fsdp2 and tp"
    for name in family.heads:
        if options[name] % parallel.tensor:
            yield f"{parallel.tensor} ranks do not divide {options[name]} {name}"
    if workload.layers % parallel.pipeline:
        yield f"{parallel.pipeline} stages do not divide {workload.layers} blocks"
    if parallel.pipeline > 1 and options.get("tied"):
        yield "the first and the last stage would both own the tied embedding; set tied to false"
    if parallel.context > 1:
        yield from _along(parallel, options)
    if parallel.sequence and options["seq"] % parallel.tensor:
        yield f"{parallel.tensor} ranks do not divide a sequence of {options['seq']}"


def _along(parallel: Parallel, options: dict[str, Any]) -> Iterator[str]:
    """Of ranks that share sequences."""
    if max(parallel.tensor, parallel.pipeline) > 1:
        yield "cp is joined with fsdp2 or ddp alone"
    if not context.available():
        yield f"PyTorch {torch.__version__} has no ring of attention to build cp on"
    if options["seq"] % (2 * parallel.context):
        parts = 2 * parallel.context
        yield f"a sequence of {options['seq']} does not go into {parts} equal parts, two for a rank"
