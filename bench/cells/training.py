"""One training step of a workload: the callable that every instrument measures."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from bench.cells.masters import Masters
from bench.cells.optimizers import make_optimizer
from bench.workloads.base import Batch, Workload
from strategies.profiling.rates import Rates

# Weights and activations all in one dtype; with fp32 weights for the optimizer; and casts of
# operators' inputs.
MASTERED = {"bf16-master": torch.bfloat16, "fp16-master": torch.float16}
PURE = {"bf16": torch.bfloat16, "fp16": torch.float16, **MASTERED}
AUTOCAST = {"bf16-autocast": torch.bfloat16, "fp16-gradscaler": torch.float16}
PRECISIONS: tuple[str, ...] = ("fp32", *PURE, *AUTOCAST)
# By what a gradient scaler multiplies at first: PyTorch's own figure overflows a loss in fp16.
SCALED = {"fp16-gradscaler": 2.0**16, "fp16-master": 2.0**10}


@dataclasses.dataclass
class TrainingStep:
    """Forward, backward and, if asked for, the optimizer's update.

    Calling it runs one whole step from no gradients and returns nothing, so that a timer keeps
    nothing alive but the number that the loss is.

    Attributes:
        rates: of a device that is only simulated; plans are made by them.
        beside: tensors that an engine keeps between steps for itself, by category.
        loss: of the last whole step, apart from its graph.
    """

    workload: Workload
    model: nn.Module
    batch: Batch
    device: torch.device
    precision: str = "fp32"
    optimizer: str = "none"
    rates: Rates | None = None
    loss: Tensor | None = dataclasses.field(default=None, init=False)
    beside: dict[str, list[Tensor]] = dataclasses.field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        mastered = self.precision in MASTERED and self.optimizer != "none"
        self.masters = Masters(self.model.parameters()) if mastered else None
        self.update_rule = make_optimizer(self.optimizer, self.masters or self.model)
        scale = SCALED.get(self.precision) if mastered or self.precision in AUTOCAST else None
        self.scaler = torch.amp.GradScaler(self.device.type, scale) if scale else None

    @classmethod
    def build(
        cls,
        workload: Workload,
        device: torch.device,
        precision: str = "fp32",
        optimizer: str = "none",
    ) -> TrainingStep:
        """Model and batch on ``device``."""
        model = make_model(workload, precision).to(device)
        batch = on(device, workload.make_batch(), precision)
        return cls(workload, model, batch, device, precision, optimizer)

    def forward(self) -> Tensor:
        """The loss (scaled, under a gradient scaler)."""
        with self.autocast():
            loss = self.workload.loss(self.model, self.batch)
        return loss if self.scaler is None else self.scaler.scale(loss)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The precision's context."""
        dtype = AUTOCAST.get(self.precision)
        return torch.autocast(self.device.type, dtype) if dtype else contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Gradients into ``.grad``."""
        loss.backward()

    def update(self) -> None:
        """The optimizer's step, if there is one."""
        if self.update_rule is None:
            return
        if self.masters is not None:
            self.masters.take_gradients()
        if self.scaler is None:
            self.update_rule.step()
        else:
            self.scaler.step(self.update_rule)
            self.scaler.update()
        if self.masters is not None:
            self.masters.give_weights()

    def drop_gradients(self) -> None:
        """Every ``.grad`` to ``None``."""
        self.model.zero_grad(set_to_none=True)

    def __call__(self) -> None:
        """One step."""
        self.drop_gradients()
        loss = self.forward()
        self.backward(loss)
        self.loss = loss.detach()
        del loss
        self.update()

    def resident_tensors(self) -> list[Tensor]:
        """What is alive between steps, gradients aside: parameters, buffers, batch, optimizer."""
        model = self.model
        return [
            *model.parameters(),
            *model.buffers(),
            *self.batch_tensors(),
            *self.optimizer_tensors(),
            *self.scaler_tensors(),
        ]

    def batch_tensors(self) -> list[Tensor]:
        """The batch's, whatever holds them."""
        return [leaf for leaf in tree_leaves(self.batch) if isinstance(leaf, Tensor)]

    def optimizer_tensors(self) -> list[Tensor]:
        """The optimizer's state, and the fp32 weights that it updates instead of the model's."""
        if self.update_rule is None:
            return []
        masters = self.masters.parameters() if self.masters is not None else ()
        values = [v for state in self.update_rule.state.values() for v in state.values()]
        return [*masters, *(value for value in values if isinstance(value, Tensor))]

    def scaler_tensors(self) -> list[Tensor]:
        """The gradient scaler's scale, and its count of steps."""
        scaler = self.scaler
        values = (scaler._scale, scaler._growth_tracker) if scaler is not None else ()
        return [value for value in values if value is not None]


@contextlib.contextmanager
def unmoved(step: TrainingStep) -> Iterator[None]:
    """Afterwards parameters, optimizer and scaler are what they were before.

    Whoever watches a step to plan it runs its update, too.
    """
    rule, scaler = step.update_rule, step.scaler
    if rule is None:
        yield
        return
    learnt = [*step.model.parameters(), *(step.masters.parameters() if step.masters else ())]
    before = [(parameter, parameter.detach().clone()) for parameter in learnt]
    state = copy.deepcopy(rule.state_dict())
    scale = scaler.state_dict() if scaler else {}
    yield
    with torch.no_grad():
        for parameter, value in before:
            parameter.copy_(value)
    rule.load_state_dict(state)
    if scaler:
        scaler.load_state_dict(scale)


def make_model(workload: Workload, precision: str) -> nn.Module:
    """The workload's model, its weights in the precision's dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(PURE.get(precision, before))
    try:
        return workload.model()
    finally:
        torch.set_default_dtype(before)


def on(device: torch.device, batch: Batch, precision: str) -> Batch:
    """A batch on a device, in the precision of the weights."""
    return tree_map_only(Tensor, lambda t: cast(t.to(device), precision), batch)


def cast(tensor: Tensor, precision: str) -> Tensor:
    """A batch tensor in the precision of the weights; token numbers stay what they are."""
    dtype = PURE.get(precision)
    return tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
