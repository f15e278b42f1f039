"""What the plan interpreter predicts of a cell, as a part of its record."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import strategies
from bench.cells.training import TrainingStep
from bench.store.parts import Predicted
from strategies.execution.undo import installed
from strategies.profiling.profiler import profile_chain
from strategies.schedules.interpreter import predict
from strategies.schedules.schedule import ALL


def predicted(step: TrainingStep, prepared: strategies.Prepared, *, compiled: bool) -> Predicted:
    """What the plan interpreter says, from a profile of the blocks as the strategy has them.

    Kernels and sub-modules are the strategy's; the plan and its storage are interpreted. What a
    compiler or a peer recomputes follows no plan; of single compiled blocks, it is what was
    planned by.
    """
    model = step.model
    if prepared.strategy.opaque:
        return Predicted()
    prediction = prepared.prediction
    if prediction is None or not compiled:
        modes = enumerate(prepared.schedule.modes)
        names = {index: name for index, name in modes if name != ALL}
        with installed(lambda: prepared.strategy.install(model, prepared.chain)):
            profile = profile_chain(step, prepared.chain, assigned=[names], scratch=True)
        prediction = predict(profile, prepared.schedule, _resting_bytes(step, prepared))
    return Predicted(
        predicted_peak_bytes=prediction.peak_bytes,
        predicted_saved_after_forward_bytes=prediction.saved_bytes,
        predicted_recompute_flops=prediction.recompute_flops,
    )


def _resting_bytes(step: TrainingStep, prepared: strategies.Prepared) -> list[int] | None:
    storage = prepared.storage
    if storage is None or prepared.stored is not None:
        return None
    boundaries = _boundaries(step, prepared.chain)
    return [storage.device_bytes(boundary) for boundary in boundaries]


def _boundaries(step: TrainingStep, chain: strategies.Chain) -> list[Tensor]:
    """Each block's input, as empty tensors of the same kind (values are of no interest)."""
    inputs: list[Tensor] = []

    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        del module
        inputs.append(next(t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)))

    handles = [b.register_forward_pre_hook(hook, with_kwargs=True) for b in chain.blocks]
    try:
        with torch.no_grad():
            step.forward()
    finally:
        for handle in handles:
            handle.remove()
    return inputs
