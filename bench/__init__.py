"""How strategies are measured: workloads, devices, one process a cell, records, report.

import bench

bench.run(model, batch, strategies=["none", "sqrt"])        # a pandas.DataFrame
bench.advise(model, batch, device="sim:h100-80gb")          # what to do, in words and numbers
bench.timeline("gpt-mini", device="sim:a100-80gb").facts    # where the peak is

Importing this package is cheap: what these need is imported when they are called.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__all__ = ["advise", "run", "timeline"]

# By name, not by an import: what a cell's process does not come to decides no record.
_INTERFACE = "bench.interface"
_PACKAGES = ("advise", "run")


class CallablePackage(ModuleType):
    """A package that is called as the function of the interface that has its name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*args, **kwargs)

    @property
    def __wrapped__(self) -> Any:
        """The function, for `help` and `inspect.signature`, too."""
        return getattr(importlib.import_module(_INTERFACE), self.__name__.rpartition(".")[2])


def make_callable(package: str) -> None:
    """For a package to call while it is imported: as an attribute it hides a function here."""
    sys.modules[package].__class__ = CallablePackage


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in __all__:
        return getattr(importlib.import_module(_INTERFACE), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
