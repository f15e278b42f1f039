"""What an optimizer's update needs, without running it: on fake tensors, which take no memory."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Collection, Container, Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.optim.optimizer import _default_to_fused_or_foreach
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from strategies.execution.trial import update_alone
from strategies.profiling.caching_allocator import surplus_bytes
from strategies.profiling.kinds import form_of
from strategies.profiling.ledger import Ledger, unique_bytes
from strategies.profiling.optimizers import AnyOptimizer

_Kind = TypeVar("_Kind", bound=AnyOptimizer)

_STEPS_SO_FAR = 1000.0
"""What a fake optimizer reads as its count of steps: past every warm-up that takes less memory."""


@dataclasses.dataclass(frozen=True)
class UpdateCost:
    """Bytes of an optimizer's update.

    Attributes:
        missing_bytes: of the state that its first update will add for good.
        working_bytes: most alive during an update above what is alive before and after.
    """

    missing_bytes: int
    working_bytes: int


class _SizesLedger(Ledger):
    """Of some devices; remembers every storage's size, to tell which there were at the peak."""

    def __init__(self, devices: Container[torch.device]) -> None:
        super().__init__()
        self.devices = devices
        self.changes_bytes: list[int] = []

    def _birth(self, tensor: Tensor) -> None:
        if tensor.device in self.devices:
            super()._birth(tensor)

    def born(self, key: int, size_bytes: int) -> None:
        """A storage exists from now on."""
        super().born(key, size_bytes)
        self.changes_bytes.append(size_bytes)

    def died(self, key: int, size_bytes: int) -> None:
        """A storage is gone."""
        super().died(key, size_bytes)
        self.changes_bytes.append(-size_bytes)

    def sizes_at_peak(self) -> Counter[int]:
        """How many storages of which size."""
        sizes: Counter[int] = Counter()
        peak = max(range(len(self.alive)), key=self.alive.__getitem__, default=-1)
        for delta_bytes in self.changes_bytes[: peak + 1]:
            sizes[abs(delta_bytes)] += 1 if delta_bytes > 0 else -1
        return sizes


class _Numbers(TorchDispatchMode):
    """Answers when an optimizer asks a fake tensor for its number: for its count of steps."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return _number(args[0])
        return func(*args, **(kwargs or {}))


def _number(tensor: Tensor) -> float | int | bool:
    if tensor.dtype is torch.bool:
        return False
    return _STEPS_SO_FAR if tensor.is_floating_point() else int(_STEPS_SO_FAR)


def update_cost(optimizer: AnyOptimizer, *, blocks: bool = False) -> UpdateCost:
    """What an update of all parameters costs once the optimizer's state exists.

    Args:
        optimizer: whose update needs no closure; it is left as it is.
        blocks: count what whole blocks of CUDA's caching allocator take above the tensors in them,
            too: of the whole state with what is missing, of gradients with what the update needs.

    Raises:
        Exception: whatever the optimizer raises that cannot run on fake tensors.
    """
    before_bytes = unique_bytes(_state(optimizer))
    with _faked(optimizer) as twin:
        parameters = [p for group in twin.param_groups for p in group["params"]]
        _watched(twin, parameters, twin.step)  # makes the state
        after_bytes, state = unique_bytes(_state(twin)), _sizes(_state(twin))
        ledger, working_bytes = _watched(twin, parameters, twin.step)
        renewed = ledger.sizes_at_peak() - _sizes(parameters) - state
    missing_bytes = max(0, after_bytes - before_bytes)
    if not blocks:
        return UpdateCost(missing_bytes, working_bytes)
    kept = list(state.elements())
    of_state, of_all = surplus_bytes(kept), surplus_bytes(kept, list(renewed.elements()))
    return UpdateCost(missing_bytes + of_state, working_bytes + max(0, of_all - of_state))


def _sizes(tensors: Collection[Tensor]) -> Counter[int]:
    """How many of which size in bytes."""
    ledger = _SizesLedger({tensor.device for tensor in tensors})
    ledger.adopt(tensors)
    return ledger.sizes_at_peak()


def update_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Most alive during the update of each parameter alone, its gradient not counted.

    Args:
        model: whose parameters are named; those that learn and that the optimizer has.
        optimizer: it is left as it is.

    Raises:
        Exception: as `update_cost`.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    known: dict[Hashable, int] = {}
    sizes = {}
    with _faked(optimizer) as twin:
        for number, group in enumerate(optimizer.param_groups):
            fakes = twin.param_groups[number]["params"]
            for real, fake in zip(group["params"], fakes, strict=True):
                if real.requires_grad and id(real) in names:
                    form = (number, form_of(real))
                    if form not in known:
                        known[form] = _alone_bytes(twin, number, fake)
                    sizes[names[id(real)]] = known[form]
    return sizes


def _alone_bytes(twin: torch.optim.Optimizer, group: int, parameter: Tensor) -> int:
    update = functools.partial(update_alone, twin, group, parameter)
    _watched(twin, [parameter], update)  # makes the state
    return _watched(twin, [parameter], update)[1]


@contextlib.contextmanager
def _faked(optimizer: _Kind) -> Iterator[_Kind]:
    """A twin on fake tensors, that can be asked to step."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with FakeCopyMode(mode):
        twin = copy.deepcopy(optimizer)
    with mode, _Numbers():  # type: ignore[no-untyped-call]
        _choose_kernels(optimizer, twin)
        yield twin


def _state(optimizer: AnyOptimizer) -> list[Tensor]:
    devices, leaves = _devices(optimizer), tree_leaves(list(optimizer.state.values()))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.device in devices]


def _devices(optimizer: AnyOptimizer) -> set[torch.device]:
    """Of the parameters; counts of steps are on the CPU, wherever those are."""
    return {p.device for group in optimizer.param_groups for p in group["params"]}


def _choose_kernels(optimizer: AnyOptimizer, twin: AnyOptimizer) -> None:
    """The twin takes the kernels that the optimizer would; PyTorch chooses by the class."""
    for real, fake in zip(optimizer.param_groups, twin.param_groups, strict=True):
        if "foreach" in real and real["foreach"] is None and not real.get("fused"):
            learning = [p for p in real["params"] if p.requires_grad]
            _, fake["foreach"] = _default_to_fused_or_foreach(
                learning, differentiable=bool(real.get("differentiable")), use_fused=False
            )


def _watched(
    optimizer: AnyOptimizer, parameters: Sequence[Tensor], update: Callable[[], Any]
) -> tuple[_SizesLedger, int]:
    """Run an update of some parameters; its ledger, and the most that it needed above the start."""
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    ledger = _SizesLedger(_devices(optimizer))
    gradients = [p.grad for p in parameters if p.grad is not None]
    start_bytes = ledger.adopt([*parameters, *gradients, *_state(optimizer)])
    with ledger:
        update()
    return ledger, ledger.peak_bytes() - start_bytes
