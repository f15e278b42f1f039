"""One parameter's update alone, and whether an optimizer's are what they are together.

An optimizer that needs a closure, a norm of all gradients, or counts its steps in its groups cannot
be told by its name. So its update is tried on a few small parameters of the same kinds, together
and one by one.
"""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from strategies.execution.errors import Unsupported

_STEPS, _PER_GROUP, _LONGEST = 3, 2, 3
_PLAIN = (type(None), bool, int, float, str, tuple)


def update_alone(optimizer: torch.optim.Optimizer, group: int, parameter: Tensor) -> None:
    """The optimizer's step over one parameter; hooks of its ``step`` are not called.

    Args:
        optimizer: it keeps the parameter's state as it always does.
        group: the number of the parameter's group.
        parameter: with its gradient.
    """
    groups = optimizer.param_groups
    own = groups[group]
    parameters = own["params"]
    optimizer.param_groups, own["params"] = [own], [parameter]
    try:
        _bare_step(type(optimizer))(optimizer)
    finally:
        optimizer.param_groups, own["params"] = groups, parameters


def _bare_step(kind: type[torch.optim.Optimizer]) -> Callable[[torch.optim.Optimizer], Any]:
    """The class's own step, without PyTorch's wrapper that calls hooks."""
    step: Any = kind.step
    bare: Callable[[torch.optim.Optimizer], Any] = step
    return step.__wrapped__ if getattr(step, "hooked", False) else bare


def try_alone(optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer whose updates one by one are not its updates together.

    Args:
        optimizer: it is left as it is.

    Raises:
        Unsupported: says so, or that it cannot be tried.
    """
    name = type(optimizer).__name__
    try:
        with torch.random.fork_rng():
            together, alone = (_trained(optimizer, alone=each) for each in (False, True))
    except Exception as error:  # the optimizer may be anybody's
        raise Unsupported(
            f"release_gradients: the update of {name} cannot be tried one parameter at a time"
            f" ({type(error).__name__}: {error})"
        ) from error
    if len(together) != len(alone) or not all(map(_same, together, alone)):
        raise Unsupported(
            f"release_gradients: what {name} does to a parameter depends on the others, so that"
            " their gradients must be there together"
        )


def _trained(optimizer: torch.optim.Optimizer, *, alone: bool) -> list[Any]:
    """What a twin's few steps leave: parameters, state, and what its groups say."""
    torch.manual_seed(0)
    twin = _small_twin(optimizer)
    numbered = [(n, p) for n, group in enumerate(twin.param_groups) for p in group["params"]]
    for step in range(_STEPS):
        for number, (_, parameter) in enumerate(numbered, 1):
            values = torch.linspace(-1, 1 + step, parameter.numel(), device=parameter.device)
            parameter.grad = (number * values).view(parameter.shape).to(parameter.dtype)
        if alone:
            for group, parameter in reversed(numbered):
                update_alone(twin, group, parameter)
        else:
            twin.step()
    states = [twin.state[parameter] for _, parameter in numbered]
    return tree_leaves([twin.param_groups, states])


def _small_twin(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The same class and settings, without state, over a few small parameters of each group."""
    groups = []
    for group in optimizer.param_groups:
        settings = {name: copy.deepcopy(v) for name, v in group.items() if name != "params"}
        learning = [p for p in group["params"] if p.requires_grad]
        forms = {(p.dim(), p.dtype, p.device): p for p in learning}
        chosen = [p for p in forms.values() for _ in range(_PER_GROUP)]
        groups.append({**settings, "params": list(map(_small, chosen))})
    twin = type(optimizer).__new__(type(optimizer))
    plain = {name: v for name, v in vars(optimizer).items() if isinstance(v, _PLAIN)}
    state = collections.defaultdict(dict)  # type: ignore[var-annotated]
    own = {"state": state, "param_groups": groups}
    twin.__setstate__({**plain, **optimizer.__getstate__(), **own})
    return twin


def _small(parameter: Tensor) -> nn.Parameter:
    shape = [min(size, _LONGEST) for size in parameter.shape]
    return nn.Parameter(torch.ones(shape, dtype=parameter.dtype, device=parameter.device))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    return bool(one == other)
