"""A simulated device beside the real one: one JSON file a workload, device and machine.

Raw bytes; errors are derived by `bench.report.validations`. Imports no torch.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bench.store.json_store import JsonStore, Provenance, digest
from bench.store.ranges import folder_of

SCHEMA_VERSION = 1
FOLDER = "validations"


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One strategy, simulated and real, in bytes.

    Attributes:
        simulated_peak_bytes: on a CPU of tensors; on an accelerator in its allocator's blocks,
            scratch memory included.
        real_tensor_peak_bytes: the same of the real step's tensors; ``None`` off the CPU.
        simulated_after_forward_bytes: when forward is done.
        real_after_forward_bytes: likewise; ``None`` off the CPU.
        allocator_peak_bytes: what the device's allocator says.
        simulated_reserved_bytes: held by the modelled allocator, workspaces included.
        allocator_reserved_bytes: held by the device's allocator; ``None`` where it does not say.
        scratch: operator at the allocator's peak; ``None`` where that is not known.
    """

    strategy: str
    simulated_peak_bytes: int
    real_tensor_peak_bytes: int | None
    simulated_after_forward_bytes: int
    real_after_forward_bytes: int | None
    allocator_peak_bytes: int
    simulated_reserved_bytes: int
    allocator_reserved_bytes: int | None
    scratch: str | None

    @property
    def tensor_peak_error(self) -> int | None:
        """Simulated minus real, of tensors."""
        real = self.real_tensor_peak_bytes
        return None if real is None else self.simulated_peak_bytes - real

    @property
    def after_forward_error(self) -> int | None:
        """The same when forward is done."""
        real = self.real_after_forward_bytes
        return None if real is None else self.simulated_after_forward_bytes - real

    @property
    def allocator_error(self) -> float:
        """Simulated peak over the allocator's, less one."""
        return self.simulated_peak_bytes / self.allocator_peak_bytes - 1

    @property
    def reserved_error(self) -> float | None:
        """The same of what is held."""
        real = self.allocator_reserved_bytes
        return self.simulated_reserved_bytes / real - 1 if real else None


class Validation(Provenance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One workload on one device.

    Field by field documentation: ``results/README.md``; a test holds the two together.
    """

    schema_version: int = SCHEMA_VERSION
    workload: str
    workload_options: dict[str, Any] = msgspec.field(default_factory=dict)
    precision: str
    device: str
    device_name: str
    rows: list[Row] = msgspec.field(default_factory=list)


def _name(one: Validation) -> str:
    precision = "" if one.precision == "fp32" else f"-{one.precision}"
    options = f"-{digest(one.workload_options)[:8]}" if one.workload_options else ""
    return f"{one.machine_id}/{folder_of(one.workload)}{options}{precision}-{one.device}.json"


STORE = JsonStore(
    kind=Validation, noun="validation", folder=FOLDER, name=_name, version=SCHEMA_VERSION
)
encode, encode_line, decode = STORE.encode, STORE.encode_line, STORE.decode
path_of, write, paths, read_all = STORE.path_of, STORE.write, STORE.paths, STORE.read_all
