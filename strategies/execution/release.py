"""Gradient release: a parameter is updated as soon as its gradient is whole, which then goes.

«Optimizer in backward» (Lv et al. 2023, arXiv 2306.09782; a recipe of PyTorch's tutorials). The
optimizer stays the caller's own: it is asked to step over one parameter at a time, so that its
state, its learning rates and its ``state_dict`` are what they are in the usual loop.
"""

from __future__ import annotations

import dataclasses
import threading
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from strategies.execution import trial
from strategies.execution.errors import Unsupported
from strategies.execution.undo import Handle, RestoreAttribute, Undo, undo_all, undone_on_error

_SHARED = frozenset({"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"})


@dataclasses.dataclass(eq=False)
class Release(Handle):
    """Gradients that are released, until `undo`. As a context manager, undoes itself at the end.

    A copy of it, made with a copy of the model, releases nothing: the copy's parameters are not in
    the optimizer.
    """

    undos: list[Undo] = dataclasses.field(default_factory=list, repr=False)
    updated: set[int] = dataclasses.field(default_factory=set, repr=False)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, repr=False)

    def undo(self) -> None:
        """Gradients live until ``optimizer.step()`` again; a second call does nothing."""
        undo_all(self.undos)

    def __reduce__(self) -> tuple[type[Release], tuple[()]]:
        """For copies, and for a model that is saved whole."""
        return Release, ()

    def update(self, optimizer: torch.optim.Optimizer, group: int, parameter: Tensor) -> None:
        """A gradient is whole.

        Raises:
            Unsupported: it is the second one before ``optimizer.step()``, or one of several
                processes' own.
        """
        with self.lock:  # backward of several devices runs in a thread for each
            if id(parameter) in self.updated:
                raise Unsupported(
                    "released gradients do not accumulate: a parameter got a second one before"
                    " optimizer.step(), which ends a step also where it finds nothing left to do"
                )
            if _several_processes():
                raise Unsupported(f"released gradients: {_AVERAGED}")
            self.updated.add(id(parameter))
            trial.update_alone(optimizer, group, parameter)
            parameter.grad = None

    def begin(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """The loop calls ``optimizer.step()``: a step ends, and another may begin.

        Raises:
            Unsupported: a gradient scaler calls it.
        """
        del args, kwargs
        self.updated.clear()
        if vars(optimizer).pop("found_inf", None) is not None:
            vars(optimizer).pop("grad_scale", None)
            raise Unsupported(
                "released gradients are used before a GradScaler sees them, scaled as they are;"
                " train in bfloat16, which needs no scaler, or undo the release"
            )


@dataclasses.dataclass(frozen=True)
class _Update:
    """What is called with a parameter whose gradient is whole.

    It holds the optimizer, which holds the parameter, weakly: a tensor's hooks lie where Python's
    collection of garbage does not look, and neither would ever be freed.
    """

    release: weakref.ref[Release]
    optimizer: weakref.ref[torch.optim.Optimizer]
    group: int

    def __call__(self, parameter: Tensor) -> None:
        release, optimizer = self.release(), self.optimizer()
        if release is not None and optimizer is not None:
            release.update(optimizer, self.group, parameter)


def release_gradients(model: nn.Module, optimizer: torch.optim.Optimizer) -> Release:
    """Update every parameter in backward, as soon as its gradient is whole, and free the gradient.

    The loop stays what it is: ``optimizer.step()`` then updates what is left, which is nothing but
    parameters that came later, and tells one step from the next; ``zero_grad()`` finds nothing. The
    result is bitwise that of the usual loop, with less memory: no two gradients need to be alive at
    once, nor the temporaries of several parameters' updates.

    Clipping by a norm of all gradients is not seen, and finds none of them.

    Args:
        model: that is trained, in one process.
        optimizer: of its parameters; those without ``requires_grad`` are left alone.

    Returns:
        A handle: ``.undo()``; also a context manager.

    Raises:
        Unsupported: the optimizer updates a parameter by what it knows of others, or needs a
            closure, or the model's gradients are averaged over processes. Later, in backward or in
            the optimizer's step: gradients accumulate, or a ``GradScaler`` is used.
    """
    refuse(model, optimizer)
    release = Release()
    with undone_on_error(release.undos):
        release.undos.append(RestoreAttribute.of(optimizer, _SCALES))
        # So that a scaler leaves everything to step(), which its own check would never reach.
        vars(optimizer)[_SCALES] = True
        release.undos.append(optimizer.register_step_pre_hook(release.begin).remove)
        for number, group in enumerate(optimizer.param_groups):
            update = _Update(weakref.ref(release), weakref.ref(optimizer), number)
            learning = [parameter for parameter in group["params"] if parameter.requires_grad]
            handles = [p.register_post_accumulate_grad_hook(update) for p in learning]
            release.undos += [handle.remove for handle in handles]
    return release


def refuse(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse what gradient release would train otherwise than the usual loop does.

    Raises:
        Unsupported: see `release_gradients`.
    """
    names = {base.__name__ for module in model.modules() for base in type(module).__mro__}
    if names & _SHARED or _several_processes():
        raise Unsupported(f"release_gradients: {_AVERAGED}")
    if any(isinstance(hook, _Update) for hook in _hooks(optimizer)):
        raise Unsupported("release_gradients: this optimizer's gradients are released already")
    trial.try_alone(optimizer)


def _hooks(optimizer: torch.optim.Optimizer) -> list[Any]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return [hook for p in parameters for hook in (p._post_accumulate_grad_hooks or {}).values()]


def _several_processes() -> bool:
    distributed = torch.distributed
    known = distributed.is_available() and distributed.is_initialized()
    return known and distributed.get_world_size() > 1


_AVERAGED = (
    "gradients of several processes are averaged after they are whole, when they would be used"
    " already (DistributedDataParallel, FSDP)"
)
_SCALES = "_step_supports_amp_scaling"
