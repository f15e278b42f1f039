"""One step to watch: of a bench, or made from a user's model and an example batch."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

from strategies.execution import randoms
from strategies.execution.tensors import dense_parts, storage_key, tensors_in
from strategies.profiling.autocast import Autocast
from strategies.profiling.optimizers import AnyOptimizer
from strategies.profiling.remembered import remember


class Step(Protocol):
    """A training step in parts; any object that has them will do.

    It may have ``rates`` (`strategies.profiling.rates`), if it knows its device better than round
    figures of its kind. What others hold from step to step is noted with it, as ``standing``,
    and whether anything of the kind is renewed, as ``renews``.
    """

    @property
    def model(self) -> nn.Module:
        """The model, under no strategy."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        ...

    def forward(self) -> Tensor:
        """The loss, a scalar."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Gradients into ``.grad``."""
        ...

    def update(self) -> None:
        """The optimizer's step, if there is one."""
        ...

    def drop_gradients(self) -> None:
        """Every ``.grad`` to ``None``."""
        ...

    def resident_tensors(self) -> Sequence[Tensor]:
        """What is alive between steps, gradients aside."""
        ...


@dataclasses.dataclass
class ExampleStep:
    """A step of ``model`` on an example.

    Attributes:
        model: the caller's.
        example: a tensor, a sequence of arguments, or a mapping of keyword arguments.
        loss: of the model's output, a scalar; default: ``output.loss`` (or ``output["loss"]``), or
            else the sum of every floating-point tensor in the output.
        optimizer: whose state counts as resident, and whose update as a part of the step.
        accumulation: gradients exist when the step begins, and it adds to them.
        keep_output: the training loop holds the output of a step until that of the next is there:
            ``out = model(batch); out.loss.backward()``, in a loop.
        release_gradients: each parameter is updated in backward (`strategies.release_gradients`).
        autocast: that forward and loss run under.
        output: what the loop holds.
        held: bytes of that, and where, by storage, as last seen.
        update_bytes: most alive during each parameter's own update, by its name, where gradients
            are released (`strategies.profiling.update.update_bytes`).
        standing: held by others than the model from step to step, as noted
            (`strategies.profiling.standing`).
        renews: a step was seen to put something else in the place of what stood.
    """

    model: nn.Module
    example: Any
    loss: Callable[[Any], Tensor] | None = None
    optimizer: AnyOptimizer | None = None
    accumulation: bool = False
    keep_output: bool = True
    release_gradients: bool = False
    autocast: Autocast = dataclasses.field(default_factory=Autocast)
    output: list[Tensor] = dataclasses.field(default_factory=list, repr=False)
    held: list[tuple[int, torch.device]] = dataclasses.field(default_factory=list, repr=False)
    update_bytes: Mapping[str, int] = dataclasses.field(default_factory=dict, repr=False)
    standing: Sequence[weakref.ref[torch.UntypedStorage]] = dataclasses.field(
        default=(), repr=False
    )
    renews: bool = dataclasses.field(default=False, repr=False)

    @property
    def device(self) -> torch.device:
        """Of the model's parameters."""
        parameter = next(self.model.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def forward(self) -> Tensor:
        """The loss."""
        with self.autocast.entered():
            output = self._call()
            if self.keep_output:  # not its graph, which backward would have freed
                self.output = [tensor.detach() for tensor in tensors_in(output)]
            return _checked(self.loss(output) if self.loss else default_loss(output))

    def _call(self) -> Any:
        if isinstance(self.example, Mapping):
            return self.model(**self.example)
        if isinstance(self.example, (tuple, list)):
            return self.model(*self.example)
        return self.model(self.example)

    def backward(self, loss: Tensor) -> None:
        """Gradients into ``.grad``."""
        loss.backward()

    def update(self) -> None:
        """Nothing: the caller's weights stay as they are."""

    def drop_gradients(self) -> None:
        """Every ``.grad`` to ``None``; to zero, where steps accumulate."""
        self.model.zero_grad(set_to_none=True)
        if self.accumulation:
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)

    def resident_tensors(self) -> list[Tensor]:
        """Parameters, buffers, the example, the optimizer's state, and what the loop holds."""
        model, optimizer = self.model, self.optimizer
        state = optimizer.state.values() if optimizer else ()
        values = [*model.parameters(), *model.buffers(), *tree_leaves([self.example, list(state)])]
        values += [*self.output, *(p.grad for p in model.parameters() if self.accumulation)]
        return [value for value in values if isinstance(value, Tensor)]

    def let_go(self) -> None:
        """Hold nothing any more, and know what was held."""
        if not self.output:
            return
        held, self.output = self.output, []
        known = {storage_key(part) for t in self.resident_tensors() for part in dense_parts(t)}
        storages = {storage_key(p): p.untyped_storage() for t in held for p in dense_parts(t)}
        self.held = [(s.nbytes(), s.device) for key, s in storages.items() if key not in known]

    def renew_output(self) -> None:
        """Hold as many bytes as before in new memory, which whoever watches from now on sees."""
        self.let_go()
        self.output = [
            torch.empty(size_bytes, dtype=torch.uint8, device=device)
            for size_bytes, device in self.held
        ]

    def assumptions(self) -> str:
        """What a budget of this step is of, in a sentence."""
        begin = "with gradients" if self.accumulation else "without gradients (else: accumulation)"
        update = "its update" if self.optimizer else "no update (else: optimizer)"
        update += " in backward (release_gradients)" if self.release_gradients else ""
        cast = [str(dtype).removeprefix("torch.") for _, dtype in self.autocast.dtypes]
        begin += f", is cast to {' and '.join(cast)}" * bool(cast)
        loop = "holds" if self.keep_output else "does not hold"
        return f"the step begins {begin}, has {update}; the loop {loop} its output (keep_output)"

    def faked(self, mode: FakeTensorMode) -> ExampleStep:
        """The same step on fake tensors, which take no memory; the optimizer's state stays real."""
        example = tree_map(
            lambda v: mode.from_tensor(v) if isinstance(v, Tensor) else v, self.example
        )
        with FakeCopyMode(mode):
            model = copy.deepcopy(self.model)
        return dataclasses.replace(
            self, model=model, example=example, output=[], held=[], standing=()
        )


def run_once(step: Step) -> None:
    """Forward and backward, from no gradients.

    Afterwards libraries have the workspaces that they take at their first use and keep, and the
    loop holds an output.
    """
    step.drop_gradients()
    step.backward(step.forward())


def _checked(loss: Any) -> Tensor:
    """The loss, from which backward can begin.

    Raises:
        ValueError: it cannot.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        kind = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the loss on the example must be a tensor of one number, not {kind}")
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise ValueError(
            "the loss on the example has no gradient: is all of it frozen or detached?"
        )
    return loss


def default_loss(output: Any) -> Tensor:
    """``output.loss`` if there is one, or else the sum of every floating-point tensor.

    Raises:
        ValueError: the output holds no tensor with a gradient.
    """
    named = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(named, Tensor):
        return named
    tensors = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]
    if not tensors:
        raise ValueError("the model's output on the example holds no tensor with a gradient")
    return torch.stack([tensor.float().sum() for tensor in tensors]).sum()


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Afterwards gradients, buffers and random states (Python's and numpy's too) are as before.

    So are the attributes of its modules, in which a forward may count, cache or collect. Meanwhile
    no hook is called with a gradient that is whole: it might update the parameter.
    """
    shared = randoms.Shared(full=True)
    gradients = [(p, p.grad) for p in model.parameters()]
    buffers = [(b, b.clone()) for b in model.buffers()]
    restore = remember(model)
    try:
        with torch.random.fork_rng(), _unhooked(model):
            yield
    finally:
        restore()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        shared.restore()


@contextlib.contextmanager
def _unhooked(model: nn.Module) -> Iterator[None]:
    tables = [p._post_accumulate_grad_hooks for p in model.parameters()]
    kept = [(table, dict(table)) for table in tables if table]
    for table, _ in kept:
        table.clear()
    try:
        yield
    finally:
        for table, hooks in kept:
            table.update(hooks)


def detached(example: Any) -> Any:
    """The example without a graph behind it, as a batch of data is."""
    return tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, example)
