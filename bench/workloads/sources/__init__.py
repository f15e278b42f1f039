"""Models from elsewhere as workloads: ``own.py:build``, ``package.module:build``, ``hf:gpt2``.

A source is the name of a workload, so that cells, records, plans and simulations know nothing of
it: `bench.workloads.get` takes it, and its options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.workloads.base import Workload
from bench.workloads.sources import huggingface, images, own
from bench.workloads.sources.references import Reference
from bench.workloads.sources.source import SourceWorkload

__all__ = ["SourceWorkload", "get", "is_source", "references_of"]

_LIBRARIES: dict[str, Callable[[str], SourceWorkload]] = {
    "hf": huggingface.named,
    **dict.fromkeys(images.MAKERS, images.named),
}


def references_of(workload: Workload) -> Sequence[Reference]:
    """A user's own functions that a workload is made of; none of what a package ships."""
    return workload.references() if isinstance(workload, SourceWorkload) else ()


def is_source(name: str) -> bool:
    """Whether a name is that of a model from elsewhere: no workload of this package has a colon."""
    return ":" in name


def get(name: str, options: Mapping[str, Any]) -> Workload:
    """The workload that ``name`` names, with some options.

    Raises:
        ValueError: there is none, or an option is impossible; nothing of a user's was run.
    """
    prefix = name.partition(":")[0]
    return _LIBRARIES.get(prefix, own.named)(name).with_options(**options)
