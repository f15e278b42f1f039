"""One training step of a workload: the callable that every instrument measures."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from bench.workloads.base import Batch, Workload
from strategies.profiling.rates import Rates

Precision = Literal["fp32", "bf16", "fp16", "bf16-autocast", "fp16-gradscaler"]
Optimizer = Literal["none", "sgd", "adamw"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
# Weights and activations all in one dtype, and casts of operators' inputs.
PURE = {"bf16": torch.bfloat16, "fp16": torch.float16}
AUTOCAST = {"bf16-autocast": torch.bfloat16, "fp16-gradscaler": torch.float16}
OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)


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
        fp16 = self.precision == "fp16-gradscaler"
        self.scaler = torch.amp.GradScaler(self.device.type) if fp16 else None
        self.update_rule = make_optimizer(self.optimizer, self.model)

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
        if self.scaler is None:
            self.update_rule.step()
        else:
            self.scaler.step(self.update_rule)
            self.scaler.update()

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
        ]

    def batch_tensors(self) -> list[Tensor]:
        """The batch's, whatever holds them."""
        return [leaf for leaf in tree_leaves(self.batch) if isinstance(leaf, Tensor)]

    def optimizer_tensors(self) -> list[Tensor]:
        """The optimizer's state."""
        if self.update_rule is None:
            return []
        states = self.update_rule.state.values()
        return [v for state in states for v in state.values() if isinstance(v, Tensor)]


@contextlib.contextmanager
def unmoved(step: TrainingStep) -> Iterator[None]:
    """Afterwards parameters, optimizer and scaler are what they were before.

    Whoever watches a step to plan it runs its update, too.
    """
    rule, scaler = step.update_rule, step.scaler
    if rule is None:
        yield
        return
    before = [(parameter, parameter.detach().clone()) for parameter in step.model.parameters()]
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


def make_optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer | None:
    """A stock optimizer with a learning rate too small to disturb what is measured."""
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
    if name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=1e-6)
    return None
