"""Watches the operators of every block: what each makes, costs and keeps alive.

One step with every block in a checkpoint of its own. Operators are numbered where selective
checkpointing will number them: inside the checkpoint's own contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import SAC_IGNORED_OPS

from strategies.execution.chain import Chain
from strategies.execution.checkpoint import recompute
from strategies.execution.met import Pair
from strategies.execution.state import WatchingStandIn
from strategies.execution.tensors import tensors_in
from strategies.execution.undo import Undo, installed
from strategies.execution.written import written_bytes
from strategies.profiling.allocator import AllocatorTrace
from strategies.profiling.operator_ledger import OperatorLedger, Seen
from strategies.profiling.operator_moments import backward_moments, forward_moments, worst
from strategies.profiling.rates import Rates
from strategies.profiling.step import Step
from strategies.profiling.watched import Watched, after, watch_step
from strategies.schedules.modes import BlockOperators, Operator


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


class _NumberedForward(WatchingStandIn):
    """Runs a block under a checkpoint, its operators numbered."""

    def __init__(self, module: nn.Module, ledger: OperatorLedger, block: int) -> None:
        super().__init__(module)
        self.ledger, self.block = ledger, block

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = recompute(self.original, self.state, args, kwargs, self.contexts)
        self.ledger.not_kept(tensors_in(output))
        return output

    def contexts(self) -> Pair:
        """Of forward and of recompute."""
        forward = _Numbering(self.ledger, self.block, again=False)
        return forward, _Numbering(self.ledger, self.block, again=True)


def watch_operators(
    step: Step,
    chain: Chain,
    rates: Rates,
    trace: AllocatorTrace | None,
    indices: Sequence[int],
) -> dict[int, BlockOperators]:
    """The operators of some blocks, by index; of none where one block is in several places.

    Args:
        step: as in `strategies.profiling.profiler.profile_chain`.
        chain: the blocks.
        rates: what times are taken from.
        trace: of a real CPU's allocator, to count kernels' scratch memory.
        indices: of those blocks.
    """
    if not indices or chain.repeats:
        return {}
    ledger = OperatorLedger(rates, len(chain), trace)
    with installed(lambda: _numbered(chain, ledger, indices)):
        watched = watch_step(step, chain, ledger, trace)
    own_bytes = {index: written_bytes(chain.blocks[index]) for index in indices}
    return {i: _block_operators(watched, ledger, i, more) for i, more in own_bytes.items()}


def _numbered(chain: Chain, ledger: OperatorLedger, indices: Sequence[int]) -> list[Undo]:
    return [_NumberedForward(chain.blocks[index], ledger, index).install() for index in indices]


def _block_operators(
    watched: Watched, ledger: OperatorLedger, index: int, copies_bytes: int
) -> BlockOperators:
    operators = tuple(map(_operator, ledger.seen[index]))
    begin, end = f"backward {index}", after(index)
    recompute_ps = watched.at(end).recompute_ps - watched.at(begin).recompute_ps
    return BlockOperators(
        operators=operators,
        forward=worst(forward_moments(watched, ledger, index, operators)),
        backward=worst(backward_moments(watched, ledger, index, operators)),
        checkpoint_bytes=watched.group_bytes + copies_bytes,
        backward_flops=watched.flops(begin, end),
        fixed_ps=recompute_ps - sum(operator.time_ps for operator in operators),
    )


def _operator(seen: Seen) -> Operator:
    return Operator(
        name=seen.name,
        output_bytes=seen.output_bytes,
        time_ps=seen.time_ps,
        flops=seen.flops,
        keepable=seen.keepable and seen.again and seen.output_bytes > 0,
        random=seen.random,
        portable=seen.portable,
    )
