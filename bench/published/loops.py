"""A training loop around a model, as scripts write it: what it keeps, and when."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.cells.optimizers import EightBit
from bench.published.softmax import keeping_input
from bench.published.subject import Mark, Options, Subject
from bench.simulate.scaler import FiniteScaler

_OLDER_BLOCK = 2048
Run = Callable[[], tuple[Any, Tensor]]
"""Forward: what the script calls the outputs, and the loss."""


def training(
    model: nn.Module, run: Run, tensors: Sequence[Tensor], loop: Options, *, first: bool = True
) -> Subject:
    """A loop with the options of ``loop``.

    Options are ``optimizer`` (`optimizer`; none), ``scaler`` (its gradients are scaled),
    ``zero_grad`` (``before`` forward, ``between`` forward and backward, ``after`` the step, or
    ``never``: gradients add up), ``set_to_none`` (true), ``holds`` (true: outputs and loss live
    until the next ones replace them), ``autocast`` (a dtype's name), ``clips`` (the norm of the
    gradients is clipped), ``softmax_keeps_input`` (as before PyTorch 1.11).

    Args:
        model: what is trained.
        run: its forward.
        tensors: the batch, and whatever else is on the device.
        loop: see above.
        first: the optimizer's state is there before the first iteration.
    """
    update = optimizer(loop.get("optimizer", "none"), model)
    scaler = FiniteScaler("cpu", enabled=loop.get("scaler", False))
    if update is not None and first:
        _warm(update, model)
    state = _states(update)
    held: dict[str, Any] = {}
    zero_grad = loop.get("zero_grad", "before")
    softmax = keeping_input if loop.get("softmax_keeps_input") else contextlib.nullcontext

    def clear(moment: str) -> None:
        if moment == zero_grad:
            model.zero_grad(set_to_none=loop.get("set_to_none", True))

    def differentiate(mark: Mark) -> None:
        with autocast(loop.get("autocast")):
            outputs, loss = run()
        if loop.get("holds"):
            held.update(outputs=outputs, loss=loss)
        mark("forward")
        clear("between")
        scaler.scale(loss).backward()
        mark("backward")

    def step(mark: Mark) -> None:
        clear("before")
        with softmax():
            differentiate(mark)
        if loop.get("clips"):
            if update is not None:
                scaler.unscale_(update)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if update is not None:
            scaler.step(update)
            scaler.update()
        clear("after")

    return Subject(step, [model], [*tensors, *state])


def autocast(dtype: str | None) -> contextlib.AbstractContextManager[object]:
    """The context of mixed precision; none without a dtype."""
    return torch.autocast("cpu", getattr(torch, dtype)) if dtype else contextlib.nullcontext()


def optimizer(name: str, model: nn.Module) -> Optimizer | None:
    """A stock optimizer as it runs on CUDA: over lists of tensors, unless the name says more.

    ``single`` takes one tensor after another, ``fused`` each in one kernel (``adamw fused``);
    ``8bit`` is `EightBit`, as bitsandbytes was before 0.44.

    Raises:
        ValueError: there is none of that name.
    """
    if name == "none":
        return None
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    kind, _, form = name.partition(" ")
    if kind not in kinds or form not in ("", "single", "fused", "8bit"):
        raise ValueError(
            f"no optimizer {name!r}; there are {', '.join(kinds)}, single, fused or 8bit"
        )
    trained = [p for p in model.parameters() if p.requires_grad]
    if form == "8bit":
        return EightBit(trained, 1 if kind == "sgd" else 2, block=_OLDER_BLOCK)
    made: Optimizer = kinds[kind](trained, lr=1e-6, foreach=not form, fused=form == "fused")
    return made


def _warm(update: Optimizer, model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    update.step()
    model.zero_grad()


def _states(update: Optimizer | None) -> list[Tensor]:
    """On the device: not the step counters, which are scalars on the host."""
    states = [] if update is None else list(update.state.values())
    values = [value for state in states for value in state.values()]
    return [value for value in values if isinstance(value, Tensor) and value.dim()]
