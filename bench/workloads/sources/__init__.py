"""Models from elsewhere as workloads: ``hf:gpt2``, ``own.py:build``, ``package.module:build``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.workloads.base import Workload
from bench.workloads.sources.huggingface import huggingface
from bench.workloads.sources.own import own
from bench.workloads.sources.source import SourceWorkload

__all__ = ["SourceWorkload", "get", "is_source"]

_LIBRARIES: dict[str, Callable[[str], SourceWorkload]] = {"hf": huggingface}


def is_source(name: str) -> bool:
    """Whether a name is that of a model from elsewhere: no workload of this package has a colon."""
    return ":" in name


def get(name: str, options: Mapping[str, Any]) -> Workload:
    """The workload that ``name`` names, with some options.

    Raises:
        ValueError: there is none.
    """
    prefix = name.partition(":")[0]
    return _LIBRARIES.get(prefix, own)(name).with_options(**options)
