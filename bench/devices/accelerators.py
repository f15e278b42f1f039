"""Accelerators that can be simulated: a catalogue kept as data, and custom ones.

Every figure is a peak of the datasheet in ``catalogue.json``, with its source. What holds for all:

- Memory: ``datasheet_memory_bytes`` is the number on the datasheet in GiB, as memory is built
  although the datasheet writes GB. ``memory_bytes``, which decides whether a step fits, is less:
  what the driver offers to a process. It differs by some 10 MiB between driver versions (the
  lowest found is here), and the driver's own context, some 0.5 GiB, is still to be taken from it.
- Rates are dense, without 2:4 sparsity, and accumulate in fp32. fp32 is not TF32, which PyTorch
  does not use unless told to.
- The host link is PCIe x16 in one direction, before protocol overhead: 16, 32 or 64 GB/s for
  generation 3, 4 or 5, half of the bidirectional figure that datasheets print.
- Links between devices are what NVIDIA's DGX and AMD's eight-device platforms have, in one
  direction: half of what is printed for NVLink and Infinity Fabric, and an eighth of a byte for
  each bit of a network adapter. Each rate names its source; one that none was found for says so.
- A kernel's launch takes 4 µs of the device's time, whatever the device. No datasheet says so;
  measurements of empty kernels give 2 to 5 µs.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any, get_type_hints

import msgspec

PREFIX = "sim:"
CUSTOM = "custom"

_GIB = 2**30
CONTEXT_BYTES = _GIB // 2
"""What the driver's context takes; see above."""
_LIMIT = 1e15  # far above any device; keeps products finite
_Name = Annotated[str, msgspec.Meta(min_length=1)]
_Source = Annotated[str, msgspec.Meta(pattern=r"https://|^unverified: .")]
_Bytes = Annotated[int, msgspec.Meta(gt=0)]
_Rate = Annotated[float, msgspec.Meta(gt=0)]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class Interconnect:
    """How devices reach each other, as the maker's own machines are built.

    Attributes:
        peer_bytes_per_s: of one device to the others of its node, in one direction.
        peer_source: of that: an address, or ``unverified:`` and what it was taken from.
        network_bytes_per_s: to other nodes, one device's share, in one direction.
        network_source: of that, likewise.
        devices_per_node: that share a node.
    """

    peer_bytes_per_s: _Rate
    peer_source: _Source
    network_bytes_per_s: _Rate
    network_source: _Source
    devices_per_node: _Bytes


@dataclass(frozen=True)
class Accelerator:
    """What a simulation needs to know of a device.

    Attributes:
        name: without ``sim:``.
        product: the exact product that the figures are of.
        compute_capability: of CUDA, which decides what its libraries take; ``None``: not CUDA.
        datasheet_memory_bytes: nominal size of the device's memory.
        memory_bytes: what a process may allocate; see the module.
        bf16_flops_per_s: dense peak; ``None``: no bf16 units, so it runs at the fp32 rate.
        fp16_flops_per_s: dense peak.
        fp32_flops_per_s: dense peak.
        memory_bandwidth_bytes_per_s: peak, reads and writes together.
        link_bandwidth_bytes_per_s: to or from the host, each direction on its own.
        link_source: of that: an address, or ``unverified:`` and what it was taken from.
        interconnect: between devices; ``None``: none but the host's.
        launch_overhead_s: fixed cost of one operator.
        source: title and address of the datasheet.
        memory_source: where ``memory_bytes`` was read.
        note: what else to know.
        workspace_bytes: what the matrix library keeps for each handle and stream; ``None``: what
            `bench.devices.workspaces` says.
        made_after: the accelerator of the catalogue whose figures a custom one has, where the user
            gives none.
    """

    name: _Name
    product: _Name
    compute_capability: tuple[int, int] | None
    datasheet_memory_bytes: _Bytes
    memory_bytes: _Bytes
    bf16_flops_per_s: _Rate | None
    fp16_flops_per_s: _Rate
    fp32_flops_per_s: _Rate
    memory_bandwidth_bytes_per_s: _Rate
    link_bandwidth_bytes_per_s: _Rate
    link_source: _Source
    interconnect: Interconnect | None
    launch_overhead_s: _Seconds
    source: _Name
    memory_source: _Name
    note: str
    workspace_bytes: int | None = None
    made_after: str | None = None

    @property
    def spec_text(self) -> str:
        """What `get` turns back into this accelerator."""
        return PREFIX + self.name

    def flops_per_s(self, dtype: str) -> float:
        """Peak rate for ``dtype``, as PyTorch names it; fp32's for what is no half precision."""
        if dtype == "bfloat16":
            return self.bf16_flops_per_s or self.fp32_flops_per_s
        return self.fp16_flops_per_s if dtype == "float16" else self.fp32_flops_per_s


def names() -> tuple[str, ...]:
    """The catalogue's names, in its order."""
    return tuple(catalogue())


@functools.cache
def catalogue() -> dict[str, Accelerator]:
    """Every known accelerator by name."""
    data = (resources.files("bench.devices") / "catalogue.json").read_bytes()
    return {known.name: known for known in read(data)}


def read(data: bytes) -> list[Accelerator]:
    """A catalogue's accelerators.

    Raises:
        msgspec.ValidationError: a field is missing, unknown, of the wrong type or out of range.
    """
    own = {field.name for field in dataclasses.fields(Accelerator) if field.default is None}
    hints = get_type_hints(Accelerator, include_extras=True)
    fields = [(name, hint) for name, hint in hints.items() if name not in own]
    schema = msgspec.defstruct("Row", fields, forbid_unknown_fields=True)
    rows: list[Any] = msgspec.json.decode(data, type=list[schema])  # type: ignore[valid-type]
    return [Accelerator(**msgspec.structs.asdict(row)) for row in rows]


def get(name: str) -> Accelerator:
    """The accelerator called ``name``.

    Args:
        name: ``h100-80gb``, ``sim:h100-80gb``, or ``sim:custom(memory_gb=48, …)`` with the
            parameters of `custom`.

    Raises:
        ValueError: there is none of that name, or `custom` refuses; says what is valid.
    """
    bare = name.strip().removeprefix(PREFIX)
    accelerators = catalogue()
    if bare in accelerators:
        return accelerators[bare]
    if bare.partition("(")[0].strip() == CUSTOM:
        return custom(**_parameters(bare))
    close = difflib.get_close_matches(bare.lower(), accelerators, n=3)
    hint = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise ValueError(
        f"unknown accelerator {name!r}{hint}; there are {', '.join(accelerators)}, and {_EXAMPLE}"
    )


_MODEL = "a100-80gb"
_EXAMPLE = "sim:custom(memory_gb=48, bf16_tflops=100, bandwidth_gb_s=900)"


def _parameters(text: str) -> dict[str, Any]:
    """Keyword arguments of a call that is only ever read."""
    problem = f"cannot read accelerator {text!r}; write numbers by name, as in {_EXAMPLE}"
    try:
        parameters = _written(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(problem) from error
    _check_names([name for name, _ in parameters])
    return dict(parameters)


def _written(text: str) -> list[tuple[str, Any]]:
    call = ast.parse(text, mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise ValueError("not name(parameter=value, …)")
    return [(str(word.arg), ast.literal_eval(word.value)) for word in call.keywords]


def _check_names(names: list[str]) -> None:
    parameters = list(inspect.signature(custom).parameters)
    problem = "" if "memory_gb" in names else "memory_gb is missing"
    for name in names:
        if name not in parameters:
            close = difflib.get_close_matches(name, parameters, n=1)
            problem = f"no parameter {name!r}" + (f" (did you mean {close[0]!r}?)" if close else "")
        elif names.count(name) > 1:
            problem = f"{name} is given twice"
    if problem:
        raise ValueError(f"custom accelerator: {problem}; it takes {', '.join(parameters)}")


def custom(
    *,
    memory_gb: float,
    bf16_tflops: float | None = 312,
    fp16_tflops: float = 312,
    fp32_tflops: float = 19.5,
    bandwidth_gb_s: float = 2039,
    link_gb_s: float = 32,
    launch_us: float = 4,
    workspace_mib: float | None = None,
) -> Accelerator:
    """An accelerator of one's own. What is not given is an A100 80GB's; the name writes it out.

    Args:
        memory_gb: memory, all of it usable, in GiB, which is what a datasheet's GB is.
        bf16_tflops: dense, in 10¹² operations a second; ``None`` if it has no bf16 units.
        fp16_tflops: likewise.
        fp32_tflops: likewise.
        bandwidth_gb_s: of its memory, in 10⁹ bytes a second.
        link_gb_s: to or from the host, in 10⁹ bytes a second.
        launch_us: of one operator, in microseconds; may be 0.
        workspace_mib: what the matrix library keeps for each handle and stream, in MiB; 0 counts
            none. The name leaves it out unless it is given.

    Raises:
        ValueError: a figure is not a positive number.
    """
    parameters = {
        "memory_gb": memory_gb,
        "bf16_tflops": bf16_tflops,
        "fp16_tflops": fp16_tflops,
        "fp32_tflops": fp32_tflops,
        "bandwidth_gb_s": bandwidth_gb_s,
        "link_gb_s": link_gb_s,
        "launch_us": launch_us,
    }
    if workspace_mib is not None:
        parameters["workspace_mib"] = workspace_mib
    text = ", ".join(f"{key}={_number(key, value)}" for key, value in parameters.items())
    return Accelerator(
        name=f"{CUSTOM}({text})",
        product=CUSTOM,
        compute_capability=(8, 0),
        datasheet_memory_bytes=int(memory_gb * _GIB),
        memory_bytes=int(memory_gb * _GIB),
        bf16_flops_per_s=None if bf16_tflops is None else bf16_tflops * 1e12,
        fp16_flops_per_s=fp16_tflops * 1e12,
        fp32_flops_per_s=fp32_tflops * 1e12,
        memory_bandwidth_bytes_per_s=bandwidth_gb_s * 1e9,
        link_bandwidth_bytes_per_s=link_gb_s * 1e9,
        link_source="given by the user",
        interconnect=catalogue()["a100-80gb"].interconnect,
        launch_overhead_s=launch_us * 1e-6,
        source="given by the user",
        memory_source="given by the user",
        note="",
        workspace_bytes=None if workspace_mib is None else int(workspace_mib * 2**20),
        made_after=_MODEL,
    )


def _number(key: str, value: Any) -> str:
    """``value`` as text that reads back as the same number."""
    if value is None and key == "bf16_tflops":
        return "None"
    may_be_zero = key in ("launch_us", "workspace_mib")
    if type(value) not in (int, float) or not (0 < value < _LIMIT or (may_be_zero and value == 0)):
        raise ValueError(f"custom accelerator: {key} must be a positive number, not {value!r}")
    return str(int(value)) if value == int(value) else repr(value)
