"""What is run again and again, and how what it allocates is written down."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.devices.accelerators import Accelerator
from bench.devices.workspaces import bytes_per_handle
from bench.simulate import semantics
from bench.simulate.replay import STEPS, Change
from bench.simulate.roofline import Operator
from bench.simulate.trace import BACKWARD, FORWARD, workspaces
from bench.simulate.tracer import Tracer
from strategies.profiling.rates import Scratch

Mark = Callable[[str], None]
Options = Mapping[str, Any]
BEGIN, END = "begin", "end"


@dataclasses.dataclass(frozen=True)
class Subject:
    """A loop's body and what it works on.

    Attributes:
        step: one iteration; names moments by what it is given. What outlives an iteration, it
            keeps itself.
        modules: whose parameters and buffers are on the device.
        tensors: what else is there before the first iteration.
        multiplied: whether matrices were multiplied before, in the main thread.
    """

    step: Callable[[Mark], None]
    modules: Sequence[nn.Module] = ()
    tensors: Sequence[Tensor] = ()
    multiplied: bool = False

    def resident(self) -> list[Tensor]:
        """All that is there before the first iteration, gradients included."""
        found = [t for module in self.modules for t in (*module.parameters(), *module.buffers())]
        leaves = [t for t in (*found, *self.tensors) if t.is_leaf]
        gradients = [t.grad for t in leaves if t.grad is not None]
        return [*found, *self.tensors, *gradients]


Builder = Callable[[Options], Subject]


@contextlib.contextmanager
def made_in(dtype: str) -> Iterator[torch.dtype]:
    """Floating-point tensors that are made within have this type, as PyTorch names it.

    Raises:
        ValueError: there is none of that name.
    """
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype):  # not a wrong type: a wrong name
        raise ValueError(f"no dtype {dtype!r}; as in float32, bfloat16, float16")  # noqa: TRY004
    before = torch.get_default_dtype()
    torch.set_default_dtype(found)
    try:
        yield found
    finally:
        torch.set_default_dtype(before)


class LoopTracer(Tracer):
    """Tells forward from backward by the thread that works: autograd has its own."""

    def phase(self) -> str:
        """Whose thread it is."""
        return BACKWARD if torch._C._current_graph_task_id() != -1 else FORWARD


@dataclasses.dataclass(frozen=True)
class Recording:
    """A loop's births and deaths.

    Attributes:
        changes: of storages, in order.
        resident: how many of them were there before.
        marks: of each iteration, how many changes came before each named moment.
        work: the operators of all iterations.
        multiplied: see `Subject`.
    """

    changes: Sequence[Change]
    resident: int
    marks: Sequence[Mapping[str, int]]
    work: Sequence[Operator]
    multiplied: bool = False

    def workspaces(self, device: Accelerator) -> list[int]:
        """Bytes of each workspace that the loop's matrix products make a library keep."""
        handle_bytes = bytes_per_handle(device)
        return workspaces(self.work, handle_bytes, multiplied=self.multiplied)


def record(
    build: Builder, options: Options, steps: int = STEPS, scratch: Scratch | None = None
) -> Recording:
    """Run a subject on fake tensors, as CUDA's kernels would save.

    Args:
        build: makes it, from fake tensors.
        options: of this one.
        steps: iterations.
        scratch: of the device's kernels.
    """
    with FakeTensorMode(), torch.random.fork_rng(devices=[]):
        subject = build(options)
        model = nn.ModuleList(subject.modules)
        tracer = LoopTracer(model, scratch=scratch)
        tracer.adopt_as("resident", subject.resident())
        resident = len(tracer.events)
        marks: list[dict[str, int]] = []
        with semantics.cuda(), tracer:
            for _ in range(steps):
                marks.append({BEGIN: len(tracer.events)})
                subject.step(lambda name: marks[-1].update({name: len(tracer.events)}))
                marks[-1][END] = len(tracer.events)
    changes = [(event.life, event.delta_bytes) for event in tracer.events]
    return Recording(changes, resident, marks, tracer.work, subject.multiplied)
