"""Where a step runs: this machine's CPU, or its accelerator."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def available() -> dict[str, str]:
    """Devices of this machine: name → what it is."""
    devices = {"cpu": cpu_name()}
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator(check_available=True)
        assert kind is not None
        devices[kind.type] = accelerator_name(kind)
    return devices


def default() -> str:
    """The accelerator if there is one, the CPU otherwise."""
    return list(available())[-1]


def get(name: str) -> torch.device:
    """The device called ``name``.

    Raises:
        ValueError: this machine has none of that name; says which it has.
    """
    devices = available()
    if name not in devices:
        listed = ", ".join(f"{key} ({value})" for key, value in devices.items())
        raise ValueError(
            f"this machine has no device {name!r}; it has {listed}, and sim:NAME simulates others"
            " (python -m bench list devices)"
        )
    return torch.device(name)


def describe(device: torch.device) -> str:
    """The device's product name, for tables."""
    return cpu_name() if device.type == "cpu" else accelerator_name(device)


def cpu_name() -> str:
    """The processor's model name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def accelerator_name(device: torch.device) -> str:
    """The accelerator's product name."""
    module = torch.get_device_module(device)
    return str(module.get_device_name(0)) if hasattr(module, "get_device_name") else device.type
