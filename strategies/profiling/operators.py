"""Watches the operators of every block: what each makes, costs and keeps alive.

One step with every block in a checkpoint of its own. Operators are numbered where selective
checkpointing will number them: inside the checkpoint's own contexts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import SAC_IGNORED_OPS

from strategies.execution.chain import Chain
from strategies.execution.checkpoint import Arguments, recompute
from strategies.execution.contexts import Pair
from strategies.execution.dispatch import can_be_kept, is_random, storage_key, tensors_in
from strategies.execution.undo import replace_forward
from strategies.profiling.allocator import AllocatorTrace
from strategies.profiling.ledger import Ledger
from strategies.profiling.rates import Rates
from strategies.profiling.step import Step
from strategies.profiling.watched import Watched, after, watch_step
from strategies.schedules.modes import BlockOperators, Moment, Operator

Place = tuple[int, int]  # a block and an operator's number in it


@dataclasses.dataclass
class _Seen:
    """One operator of a block's forward."""

    name: str
    keepable: bool
    random: bool
    output_bytes: int = 0
    time_ps: int = 0
    flops: int = 0
    again: bool = False


@dataclasses.dataclass(frozen=True)
class _Span:
    """The events of one operator, in forward or in recompute."""

    place: Place
    again: bool
    first: int
    end: int


class OperatorLedger(Ledger):
    """A ledger that knows which operator made a storage.

    Attributes:
        seen: operators by block.
        owners: of each event, the operator whose storage was born or died, if one of a block.
    """

    def __init__(self, rates: Rates, blocks: int, trace: AllocatorTrace | None = None) -> None:
        super().__init__(rates)
        self.trace = trace
        self.seen: list[list[_Seen]] = [[] for _ in range(blocks)]
        self.owners: list[Place | None] = []
        self.spans: list[_Span] = []
        self.deltas: list[int] = []
        self._now: Place | None = None
        self._owner: dict[int, Place] = {}

    def born(self, key: int, size_bytes: int) -> None:
        """Of the operator that runs."""
        if self._now is not None:
            self._owner[key] = self._now
        self._note(self._now, size_bytes)
        super().born(key, size_bytes)

    def died(self, key: int, size_bytes: int) -> None:
        """Of the operator that made it."""
        self._note(self._owner.pop(key, None), -size_bytes)
        super().died(key, size_bytes)

    def _note(self, place: Place | None, delta_bytes: int) -> None:
        self.owners.append(place)
        self.deltas.append(delta_bytes)

    def run(self, place: Place, func: Any, args: Any, kwargs: Any, *, again: bool) -> Any:
        """One operator of a block; nested calls are part of it."""
        first, flops, time_ps = len(self.alive), self.recompute_flops, self.recompute_ps
        begin, end = _names(place, again=again)
        self._now = place
        try:
            self._mark(begin)
            out = func(*args, **kwargs)
            self._mark(end)
        finally:
            self._now = None
        self.spans.append(_Span(place, again, first, len(self.alive)))
        block, position = place
        if again:
            seen = self.seen[block][position]
            seen.again, seen.flops = True, self.recompute_flops - flops
            seen.time_ps = self.recompute_ps - time_ps
        else:
            made_bytes = sum(delta for delta in self.deltas[first:] if delta > 0)
            seen = _Seen(_name(func), can_be_kept(func), is_random(func, args, kwargs), made_bytes)
            self.seen[block].append(seen)
        if func._schema.is_mutable:
            self.not_kept(_written(func, args, kwargs))
        return out

    def _mark(self, name: str) -> None:
        if self.trace is not None:
            self.trace.mark(name)

    def not_kept(self, tensors: Iterable[Tensor]) -> None:
        """Whoever made these cannot be kept."""
        for tensor in tensors:
            place = self._owner.get(storage_key(tensor))
            if place is not None:
                self.seen[place[0]][place[1]].keepable = False


def _names(place: Place, *, again: bool) -> tuple[str, str]:
    """What an operator's beginning and end are called in a trace."""
    name = f"{'again' if again else 'first'} {place[0]} {place[1]}"
    return f"begin {name}", f"end {name}"


def _name(func: Any) -> str:
    return str(func._overloadpacket.__name__)


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    for argument, value in zip(func._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors_in(value)
    for argument in func._schema.arguments:
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors_in(kwargs.get(argument.name))


class _Numbering(TorchDispatchMode):
    """Numbers the operators of a block as selective checkpointing does."""

    def __init__(self, ledger: OperatorLedger, block: int, *, again: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger, self.block, self.again = ledger, block, again
        self.count = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator under its number."""
        if func in SAC_IGNORED_OPS:
            return func(*args, **(kwargs or {}))
        place = (self.block, self.count)
        self.count += 1
        return self.ledger.run(place, func, args, kwargs or {}, again=self.again)


class _NumberedForward:
    """Stands in for a block's ``forward``: under a checkpoint, its operators numbered."""

    def __init__(self, module: nn.Module, ledger: OperatorLedger, block: int) -> None:
        self.module, self.ledger, self.block = module, ledger, block
        self.original: Callable[..., Any] = module.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = Arguments.of(self.original, args, kwargs)
        call = given.bind(self.original)
        output = recompute(call, [self.module], given.args, given.kwargs, self.contexts)
        self.ledger.not_kept(tensors_in(output))
        return output

    def contexts(self) -> Pair:
        """Of forward and of recompute."""
        forward = _Numbering(self.ledger, self.block, again=False)
        return forward, _Numbering(self.ledger, self.block, again=True)


def watch_operators(
    step: Step, chain: Chain, rates: Rates, trace: AllocatorTrace | None
) -> list[BlockOperators] | None:
    """The operators of every block; ``None`` where one block is in several places.

    Args:
        step: as in `strategies.profiling.profiler.profile_chain`.
        chain: the blocks.
        rates: what times are taken from.
        trace: of a real CPU's allocator, to count kernels' scratch memory.
    """
    if len({id(block) for block in chain.blocks}) < len(chain):
        return None
    ledger = OperatorLedger(rates, len(chain), trace)
    undos = [
        replace_forward(block, _NumberedForward(block, ledger, index))
        for index, block in enumerate(chain.blocks)
    ]
    try:
        watched = watch_step(step, chain, ledger, trace)
    finally:
        while undos:
            undos.pop()()
    return [_block_operators(watched, ledger, index) for index in range(len(chain))]


def _block_operators(watched: Watched, ledger: OperatorLedger, index: int) -> BlockOperators:
    operators = tuple(map(_operator, ledger.seen[index]))
    begin, end = f"backward {index}", after(index)
    recompute_ps = watched.at(end).recompute_ps - watched.at(begin).recompute_ps
    return BlockOperators(
        operators=operators,
        forward=_worst(_forward_moments(watched, ledger, index, operators)),
        backward=_worst(_backward_moments(watched, ledger, index, operators)),
        checkpoint_bytes=watched.group_bytes,
        backward_flops=watched.flops(begin, end),
        fixed_ps=recompute_ps - sum(operator.time_ps for operator in operators),
    )


def _operator(seen: _Seen) -> Operator:
    return Operator(
        name=seen.name,
        output_bytes=seen.output_bytes,
        time_ps=seen.time_ps,
        flops=seen.flops,
        keepable=seen.keepable and seen.again and seen.output_bytes > 0,
        random=seen.random,
    )


def _forward_moments(
    watched: Watched, ledger: OperatorLedger, index: int, operators: Sequence[Operator]
) -> Iterator[Moment]:
    """A kept output is alive besides as soon as nothing else holds it."""
    enter, leave = f"enter {index}", f"leave {index}"
    spans = [s for s in ledger.spans if s.place[0] == index and not s.again]
    alive = [0] * len(operators)
    event = watched.at(enter).event
    for number, span in enumerate([*spans, None]):
        stop = watched.at(leave).event if span is None else span.first
        while event < stop:
            owner = ledger.owners[event]
            if owner is not None and owner[0] == index:
                alive[owner[1]] += ledger.deltas[event]
            event += 1
        more = _more(operators, alive, range(number))
        yield Moment(_most_bytes(watched, ledger, enter, span, leave), more)


def _backward_moments(
    watched: Watched, ledger: OperatorLedger, index: int, operators: Sequence[Operator]
) -> Iterator[Moment]:
    """A kept output is alive besides until the recompute comes to its operator."""
    begin, end = f"backward {index}", after(index)
    spans = [s for s in ledger.spans if s.place[0] == index and s.again]
    nothing = [0] * len(operators)
    everything = range(len(operators))
    yield Moment(0, _more(operators, nothing, everything))
    for span in spans:
        later = everything[span.place[1] + 1 :]
        yield Moment(
            _most_bytes(watched, ledger, begin, span, end), _more(operators, nothing, later)
        )
    yield Moment(_rest_bytes(watched, ledger, spans, begin, end), ())


def _more(
    operators: Sequence[Operator], alive: Sequence[int], numbers: Iterable[int]
) -> tuple[tuple[int, int], ...]:
    return tuple(
        (number, operators[number].output_bytes - alive[number])
        for number in numbers
        if operators[number].keepable and operators[number].output_bytes > alive[number]
    )


def _most_bytes(
    watched: Watched, ledger: OperatorLedger, start: str, span: _Span | None, end: str
) -> int:
    """Most alive during an operator, or at the end of the pass, above its start."""
    floor = watched.at(start).alive_bytes
    if span is None:
        return watched.at(end).alive_bytes - floor
    before_bytes = ledger.alive[span.first - 1] if span.first else 0
    most_bytes = max(before_bytes, *ledger.alive[span.first : span.end], 0) - floor
    if ledger.trace is None:
        return most_bytes
    begin, done = _names(span.place, again=span.again)
    return max(most_bytes, ledger.trace.above_bytes(start, begin, done))


def _rest_bytes(
    watched: Watched, ledger: OperatorLedger, spans: Sequence[_Span], begin: str, end: str
) -> int:
    """Most alive in the backward that follows the recompute."""
    first = spans[-1].end if spans else watched.at(begin).event
    alive = ledger.alive[max(0, first - 1) : watched.at(end).event]
    most_bytes = max(alive, default=0) - watched.at(begin).alive_bytes
    if ledger.trace is None:
        return max(0, most_bytes)
    done = _names(spans[-1].place, again=True)[1] if spans else begin
    return max(0, most_bytes, ledger.trace.above_bytes(begin, done, end))


def _worst(moments: Iterable[Moment]) -> tuple[Moment, ...]:
    """Those that no other one outweighs, whatever is kept."""
    found: list[Moment] = []
    for moment in sorted(moments, key=lambda m: (-m.alive_bytes, -len(m.more))):
        if not any(_outweighs(other, moment) for other in found):
            found.append(moment)
    return tuple(found)


def _outweighs(one: Moment, other: Moment) -> bool:
    sizes = dict(one.more)
    more = all(sizes.get(number, 0) >= size for number, size in other.more)
    return more and one.alive_bytes >= other.alive_bytes
