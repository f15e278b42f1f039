"""Judges gradients that are not promised to the bit, where rounding is known: against fp64.

Two kernels that round in another order differ, and nothing says which of them is right. So both are
compared with the same step in double precision, tensor by tensor, by norm. The plain model's own
distance from it is what rounding costs on this model; a strategy that does the same arithmetic in
another order may be `MULTIPLE` times as far, and no further. A strategy that approximates on
purpose is held to the floor that it declares (`strategies.contract.floor`), as a whole.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from bench.cells.training import AUTOCAST, PURE, TrainingStep, make_model
from bench.measure import gradients, masks
from bench.measure.gradients import FLOOR, Outcome
from strategies.contract.floor import Floor

MULTIPLE = 8.0
"""Of the plain model's own error: other orders of the same sums were seen at 0.9 to 1.5 times it,
over ten models and two kinds of kernels on a CPU, where it is at least its median over the tensors;
at 4.8 on an H200, whose memory-efficient attention in fp32 rounds within."""
STEADY = 1.5
"""How much the norm of one strategy's gradient may change while updates hardly move it."""

Gradients = Mapping[str, Tensor | None]


def precise(step: TrainingStep, seed: int) -> Outcome:
    """The same step in fp64, of a model made anew with the same weights; math attention.

    A device without fp64 leaves it to the CPU. Dropout drops what it drops in the step's own
    precision: on an accelerator, other numbers are drawn for another dtype.
    """
    workload = step.workload
    if "attention" in workload.option_names():
        workload = workload.with_options(attention="math")
    device = torch.device("cpu") if step.device.type == "mps" else step.device
    model = make_model(workload, step.precision).to(device).double()
    batch = tree_map_only(Tensor, functools.partial(_doubled, device=device), step.batch)
    with masks.replayed(masks.of_step(step, seed)):
        outcome = gradients.run(TrainingStep(workload, model, batch, device), seed)
    scale = step.scaler.get_scale() if step.scaler else 1.0
    # On the host: they are there for long, and an accelerator's memory is measured.
    scaled = {n: None if g is None else (g * scale).cpu() for n, g in outcome.gradients.items()}
    return dataclasses.replace(outcome, loss=outcome.loss.cpu() * scale, gradients=scaled)


def buffer_error(right: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """The largest ‖b − c‖ / ‖c‖ of buffers from those in fp64; whole numbers aside."""
    pairs = [(found[n].double(), c) for n, c in right.items() if c.is_floating_point()]
    return max((_ratio((b - c).norm().item(), c.norm().item()) for b, c in pairs), default=0.0)


def _doubled(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device, torch.double if tensor.is_floating_point() else None)


def unit(precision: str) -> float:
    """The largest relative error of rounding one number."""
    dtype = PURE.get(precision) or AUTOCAST.get(precision) or torch.float32
    return torch.finfo(dtype).eps / 2


@dataclasses.dataclass(frozen=True)
class Distance:
    """Of a gradient from another, by parameter and as one vector.

    Attributes:
        errors: ‖g − h‖ / ‖h‖, the denominator at least 10⁻³ of the largest norm.
        cosines: of those above that.
        error: ‖g − h‖ / ‖h‖ of all parameters as one vector.
        cosine: of these.
        norm: ‖g‖ of these.
    """

    errors: Mapping[str, float]
    cosines: Mapping[str, float]
    error: float
    cosine: float
    norm: float


@dataclasses.dataclass(frozen=True)
class _Sums:
    """Of one tensor: ‖h‖, ‖g‖, ‖g − h‖ and ⟨g, h⟩."""

    right: float
    norm: float
    difference: float
    product: float

    @classmethod
    def of(cls, right: Tensor, found: Tensor) -> _Sums:
        g, h = found.detach().double().flatten(), right.to(found.device).double().flatten()
        values = torch.stack([h.norm(), g.norm(), (g - h).norm(), g @ h]).tolist()
        return cls(*values)


def distance(right: Gradients, found: Gradients) -> Distance:
    """Of ``found`` from what is right; a missing gradient counts as zero."""
    sums = {
        name: _Sums.of(h, torch.zeros_like(h) if g is None else g)
        for name, h in right.items()
        if h is not None
        for g in [found.get(name)]
    }
    floor = FLOOR * max((s.right for s in sums.values()), default=0.0)
    every = list(sums.values())
    right_norm, norm = (math.hypot(*(getattr(s, n) for s in every)) for n in ("right", "norm"))
    product = math.fsum(s.product for s in every)
    return Distance(
        errors={
            n: s.difference / max(s.right, floor) for n, s in sums.items() if max(s.right, floor)
        },
        cosines={
            n: _ratio(s.product, s.right * s.norm) for n, s in sums.items() if s.right > floor
        },
        error=_ratio(math.hypot(*(s.difference for s in every)), right_norm),
        cosine=_ratio(product, right_norm * norm),
        norm=norm,
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


@dataclasses.dataclass
class Judge:
    """What the gradients of an inexact strategy are held against.

    Attributes:
        right: the first step's gradients in fp64.
        own: how far the plain model's are from them.
        unit: see `unit`.
        floor: that the strategy declares, if it approximates.
        first_norm: of the strategy's first gradient, once it was there.
    """

    right: Gradients
    own: Distance
    unit: float
    floor: Floor | None
    first_norm: float = 0.0

    @functools.cached_property
    def _least(self) -> float:
        """What rounding costs a tensor on which the plain model was lucky."""
        return max(self.unit, statistics.median(self.own.errors.values()) if self.own.errors else 0)

    def problem(self, found: Gradients, drift: Distance | None = None) -> str | None:
        """What is wrong with gradients, in a sentence, or ``None``.

        Args:
            found: of any step.
            drift: how far the plain model's gradients of that step are from those of its first.
        """
        apart = distance(self.right, found)
        self.first_norm = self.first_norm or apart.norm
        if self.floor is None:
            return self._rounding_problem(apart, drift)
        return self._floor_problem(self.floor, apart, drift)

    def _rounding_problem(self, apart: Distance, drift: Distance | None) -> str | None:
        moved = drift.errors if drift else {}
        excess = {
            name: error
            / (MULTIPLE * max(self.own.errors[name], self._least) + moved.get(name, 0.0))
            for name, error in apart.errors.items()
        }
        worst = max(excess, key=excess.__getitem__, default=None)
        if worst is None or excess[worst] <= 1:
            return None
        return (
            f"the gradient of {worst} is {apart.errors[worst]:.3g} (relative) from fp64, without"
            f" the strategy {self.own.errors[worst]:.3g}: more than rounding explains"
        )

    def _floor_problem(self, floor: Floor, apart: Distance, drift: Distance | None) -> str | None:
        moved = drift.error if drift else 0.0
        uphill = [n for n, cosine in apart.cosines.items() if cosine <= 0 and floor.max_rel_err < 1]
        checks = {
            f"the cosine of the gradient is {apart.cosine:.3g}, below the strategy's floor of"
            f" {floor.min_cosine:.3g}": apart.cosine < floor.min_cosine - moved,
            f"the relative error of the gradient is {apart.error:.3g}, above the strategy's"
            f" {floor.max_rel_err:.3g}": apart.error > floor.max_rel_err + moved,
            f"the gradient does not point downhill for {', '.join(uphill)}": bool(uphill),
            f"the gradient's norm is {_ratio(apart.norm, self.first_norm):.3g} times that of the"
            " first step": not self._steady(apart.norm, moved),
        }
        return next((sentence for sentence, broken in checks.items() if broken), None)

    def _steady(self, norm: float, moved: float) -> bool:
        most = (STEADY + moved) * self.first_norm
        return norm <= most and self.first_norm <= (STEADY + moved) * norm
