"""What there is to choose from, as plain rows for ``python -m bench list``."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from bench import devices, workloads
from bench.devices import accelerators
from bench.workloads.sources import configurations
from strategies.contract import registry
from strategies.contract.registry import classes

Row = dict[str, Any]


def strategy_rows() -> list[Row]:
    """Every strategy: name, parameters with their defaults, what it does."""
    return [
        {
            "name": name,
            "parameters": {f.name: f.default for f in dataclasses.fields(cls)},
            "grid": [point.spec() for point in cls.grid()],
            "summary": _first_sentence(cls),
        }
        for name, cls in classes().items()
    ] + foreign_rows()


def foreign_rows() -> list[Row]:
    """Strategies of other distributions, of which no code is loaded before they are chosen."""
    return [
        {
            "name": name,
            "parameters": {},
            "grid": [],
            "summary": f"Of {whose}; loaded when it is chosen",
        }
        for name, whose in registry.declared().items()
    ]


def peer_rows() -> list[Row]:
    """Every other implementation: whose, whether it is here, what it does."""
    return [
        {
            "name": name,
            "of": cls().peer,
            "installed": cls.version() is not None,
            "parameters": {f.name: f.default for f in dataclasses.fields(cls)},
            "summary": _first_sentence(cls),
        }
        for name, cls in registry.peers().items()
    ]


def _first_sentence(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " ")


def workload_rows() -> list[Row]:
    """Every workload: name, scale, options with their defaults, what it is."""
    every = [workloads.get(name) for name in workloads.available()]
    return [
        {"name": w.name, "scale": w.scale, "options": w.options(), "summary": w.summary}
        for w in every
    ]


def model_rows() -> list[Row]:
    """Every shipped configuration: name, parameters, where it was published."""
    return [
        {"name": f"hf:{name}", "parameters": one["parameter_count"], "source": one["source"]}
        for name, one in configurations.published().items()
    ]


def device_rows() -> list[Row]:
    """Every device of this machine, then every device that can be simulated."""
    default = devices.default()
    real = [
        {"name": name, "description": what, "modelled": False, "default": name == default}
        for name, what in devices.available().items()
    ]
    simulated = [
        {"name": a.spec_text, "description": a.product, "modelled": True, "default": False}
        for a in accelerators.catalogue().values()
    ]
    return real + simulated
