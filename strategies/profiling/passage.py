"""What a block's forward did, seen from outside; and the same without running the block.

A *passage* takes a block's arguments and returns outputs of the same form. Between forward and
backward it keeps as many bytes as the block does, and its backward leaves gradients of the same
form; the values are zeros. So everything around it costs what it costs around the block.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from strategies.execution.tensors import device_kinds, storage_key
from strategies.profiling.kinds import form_of


@dataclasses.dataclass(frozen=True)
class Form:
    """A tensor that a block made."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    learns: bool

    @classmethod
    def of(cls, tensor: Tensor) -> Form:
        """Of a dense tensor."""
        shape, stride = tuple(tensor.shape), tuple(tensor.stride())
        return cls(shape, stride, tensor.dtype, tensor.device, tensor.requires_grad)

    def zeros(self) -> Tensor:
        """Another one; memory that is zero already is not written to."""
        fresh = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        if fresh.stride() == self.stride:
            return fresh
        fresh = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)
        return fresh.zero_()


@dataclasses.dataclass(frozen=True)
class Record:
    """What one run of a block did.

    Attributes:
        signature: of the call; see `signature_of`.
        spec: how the output's leaves are held together.
        outputs: each leaf: made (`Form`), the argument of that number (`int`), or a plain value in
            a tuple of one.
        saved_arguments: numbers of the arguments that autograd keeps.
        saved_outputs: numbers of the made tensors that it keeps.
        saved_bytes: of what else it keeps.
        learning: numbers of the arguments that get a gradient.
        parameters: names of the block's that get one.
    """

    signature: Hashable
    spec: TreeSpec
    outputs: tuple[Form | int | tuple[Any], ...]
    saved_arguments: tuple[int, ...]
    saved_outputs: tuple[int, ...]
    saved_bytes: int
    learning: tuple[int, ...]
    parameters: tuple[str, ...]

    @property
    def made(self) -> list[Form]:
        """The tensors that the block makes."""
        return [leaf for leaf in self.outputs if isinstance(leaf, Form)]

    def bare(self) -> Record:
        """The same with nothing kept, and no gradients of parameters."""
        return dataclasses.replace(
            self, saved_arguments=(), saved_outputs=(), saved_bytes=0, parameters=()
        )

    def passed(self, block: nn.Module, args: Any, kwargs: Any) -> Any:
        """The output for a call of another block of the same kind."""
        leaves, _ = tree_flatten((args, kwargs))
        learning = [leaves[number] for number in self.learning]
        own = [block.get_parameter(name) for name in self.parameters]
        kept = [leaves[number] for number in self.saved_arguments]
        made: Iterator[Tensor] = iter(_Passage.apply(self, kept, *learning, *own))  # type: ignore[no-untyped-call]
        return tree_unflatten([_output(leaf, leaves, made) for leaf in self.outputs], self.spec)


def _output(leaf: Form | int | tuple[Any], leaves: Sequence[Any], made: Iterator[Tensor]) -> Any:
    if isinstance(leaf, Form):
        return next(made)
    return leaves[leaf] if isinstance(leaf, int) else leaf[0]


class _Passage(torch.autograd.Function):
    """Zeros forward, zeros backward, and the bytes of the block in between."""

    @staticmethod
    def forward(ctx: Any, record: Record, kept: Sequence[Tensor], *inputs: Tensor) -> Any:
        made = [form.zeros() for form in record.made]
        device = next((tensor.device for tensor in (*made, *inputs)), None)
        room = torch.empty(record.saved_bytes, dtype=torch.uint8, device=device)
        rest = [room] if record.saved_bytes else []
        ctx.save_for_backward(*kept, *(made[number] for number in record.saved_outputs), *rest)
        ctx.mark_non_differentiable(
            *(t for t, form in zip(made, record.made, strict=True) if not form.learns)
        )
        ctx.set_materialize_grads(False)
        ctx.forms = [Form.of(tensor) for tensor in inputs]
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        like = {tuple(g.shape): tuple(g.stride()) for g in gradients if g is not None}
        return None, None, *(_gradient(form, like) for form in ctx.forms)


def _gradient(form: Form, like: dict[tuple[int, ...], tuple[int, ...]]) -> Tensor:
    """Laid out as the gradient that came in, where that has the same shape."""
    stride = like.get(form.shape, form.stride)
    return dataclasses.replace(form, stride=stride if 0 not in stride else form.stride).zeros()


def signature_of(
    args: Any, kwargs: Any, resident: frozenset[int], handed_on: Sequence[Tensor | None]
) -> Hashable:
    """All that what a call costs can depend on, but for the values of tensors.

    Args:
        args: of the call.
        kwargs: of the call.
        resident: storages that are alive before the step.
        handed_on: what the block before returned.
    """
    leaves, spec = tree_flatten((args, kwargs))
    firsts: dict[int, int] = {}
    before = {id(tensor): number for number, tensor in enumerate(handed_on)}
    facts: list[Hashable] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            key = storage_key(leaf)
            alias = firsts.setdefault(key, len(firsts))
            place = (alias, key in resident, before.get(id(leaf)), leaf.is_leaf)
            facts.append((form_of(leaf), place))
        else:
            facts.append((type(leaf), leaf if isinstance(leaf, Hashable) else id(leaf)))
    return str(spec), tuple(facts), _surroundings()


def _surroundings() -> Hashable:
    autocast = [torch.is_autocast_enabled(kind) for kind in device_kinds()]
    return torch.is_grad_enabled(), tuple(autocast), torch.is_autocast_cache_enabled()


def reached(
    outputs: Sequence[Tensor], arguments: Sequence[Tensor], block: nn.Module
) -> tuple[set[int], set[str]] | None:
    """Which arguments and parameters a gradient of the outputs comes to.

    Returns:
        Identities of arguments and names of parameters; ``None`` if it also comes to something
        that is neither.
    """
    names = {id(parameter): name for name, parameter in block.named_parameters()}
    ends = {(t.grad_fn, t.output_nr): id(t) for t in arguments if t.grad_fn is not None}
    leaves = {id(t) for t in arguments if t.grad_fn is None and t.requires_grad}
    found: tuple[set[int], set[str]] = (set(), set())
    for edge in _edges([(t.grad_fn, t.output_nr) for t in outputs], lambda edge: edge in ends):
        variable = getattr(edge[0], "variable", None)
        if edge in ends:
            found[0].add(ends[edge])
        elif variable is not None and id(variable) in leaves:
            found[0].add(id(variable))
        elif variable is not None and id(variable) in names:
            found[1].add(names[id(variable)])
        elif variable is not None:
            return None
    return found


def _edges(starts: Sequence[Any], is_end: Callable[[Any], bool]) -> Iterator[Any]:
    """Every edge of the graph behind ``starts``, none beyond an end."""
    pending, seen = [edge for edge in starts if edge[0] is not None], set()
    while pending:
        edge = pending.pop()
        if edge in seen:
            continue
        seen.add(edge)
        yield edge
        if not is_end(edge):
            pending += [after for after in edge[0].next_functions if after[0] is not None]
