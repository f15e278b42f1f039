"""What part of a datasheet's peak kernels reach, by class of operator and kind of device.

One measured figure each, kept as data with its source: published seconds of benchmarks, over what
the roofline at the datasheet's peak says for the same operators. A device takes the figures of the
newest kind that is no newer than it, or of the oldest that was measured; what is no CUDA device,
or is the user's own, is taken at its peak.
"""

from __future__ import annotations

import functools
from typing import Literal

from bench.devices.accelerators import CUSTOM, Accelerator
from bench.devices.by_capability import Row, rows

Class = Literal["product", "norm", "loss", "pointwise"]
# How the names of operators begin that are not pointwise; the product's also end so.
NORMS = ("native_layer_norm", "native_batch_norm", "native_group_norm", "_fused_rms_norm")
LOSSES = ("_log_softmax", "_softmax", "nll_loss")
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "_scaled_dot_product")


class Efficiency(Row, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one class on one kind of device.

    Attributes:
        operators: which.
        compute_capability: of the device that was measured.
        product: that device.
        fraction: of the peak.
        source: of the seconds, and what they are of.
    """

    operators: Class
    product: str
    fraction: float
    source: str


@functools.cache
def known() -> list[Efficiency]:
    """All that were measured, by compute capability."""
    return rows("efficiencies.json", Efficiency)


def class_of(operator: str) -> Class:
    """The class of an operator, as PyTorch names it without ``aten::``."""
    name = operator.partition(".")[0]
    if name.startswith(PRODUCTS):
        return "product"
    if name.startswith(NORMS):
        return "norm"
    return "loss" if name.startswith(LOSSES) else "pointwise"


def fraction(device: Accelerator, operators: Class) -> float:
    """What part of its peak a device reaches; 1 where nothing is known."""
    capability = device.compute_capability
    if capability is None or device.name.startswith(CUSTOM):
        return 1.0
    measured = [row for row in known() if row.operators == operators]
    older = [row for row in measured if row.compute_capability <= capability]
    return (older[-1] if older else measured[0]).fraction
