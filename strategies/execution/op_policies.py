"""Op policies: which operators' outputs a block keeps when everything else is recomputed.

Built on PyTorch's selective checkpointing (``create_selective_checkpoint_contexts``), and on
`strategies.execution.kept` where some of them rest elsewhere than on the device, or where PyTorch
does not say what an operator returned. A kept output is never wrong, whatever the policy names:
views are recomputed with their base, operators that write in place or in inference mode run again,
and an output that is written to later is refused. Of random operators, one that ran again after a
kept one would draw other numbers, and is refused here.
"""

from __future__ import annotations

import collections
import contextlib
import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    create_selective_checkpoint_contexts,
)

from strategies.execution.checkpoint import recompute
from strategies.execution.dispatch import (
    can_be_kept,
    is_product,
    is_random,
)
from strategies.execution.errors import Unsupported
from strategies.execution.kept import WRITTEN, Cache, Giving, Keeping
from strategies.execution.met import Pair
from strategies.execution.state import WatchingStandIn
from strategies.execution.tensors import device_kinds, storage_key, tensors_in
from strategies.execution.undo import Undo
from strategies.schedules.modes import away_by, kept_by
from strategies.storage import Device, Tier

PRODUCTS = "products"
"""Matrix products, convolutions and attention are kept; all else is recomputed."""


HERE = Device()
SAYS_OUTPUT = "op_output" in inspect.signature(SelectiveCheckpointContext).parameters
"""Whether PyTorch says what an operator returned: 2.9 asks before that is known."""
_MUTATED = "has been mutated"
"""In PyTorch's refusal of a kept output that was written to."""


def is_of_written(error: RuntimeError) -> bool:
    """Whether it refuses a kept output that was written to, in PyTorch's words or in our own."""
    return any(words in str(error) for words in (_MUTATED, WRITTEN))


def is_policy(name: str) -> bool:
    """Whether a mode of that name is an op policy."""
    return name == PRODUCTS or kept_by(name) is not None


def install(
    blocks: Mapping[int, nn.Module],
    names: Mapping[int, str],
    all_blocks: Sequence[nn.Module],
    tier: Tier = HERE,
) -> list[Undo]:
    """Make blocks run under op policies.

    Args:
        blocks: by index.
        names: a policy for each of them.
        all_blocks: of the chain, some of which may share parameters.
        tier: where outputs go that a policy sends away.

    Returns:
        How to undo it, to be run in reverse.
    """
    uses = collections.Counter(
        id(p) for block in dict.fromkeys(all_blocks) for p in block.parameters()
    )
    undos: list[Undo] = []
    for index, block in blocks.items():
        shares = any(uses[id(parameter)] > 1 for parameter in block.parameters())
        undos.append(PolicyForward(block, names[index], tier, shares=shares).install())
    return undos


class PolicyForward(WatchingStandIn):
    """Runs a block under a checkpoint with an op policy.

    Attributes:
        name: of the policy.
        tier: where outputs go that it sends away.
        shares: whether the block shares parameters with another one.
        keeps_output: whether the last call kept the output of the block itself.
    """

    def __init__(
        self, module: nn.Module, name: str, tier: Tier = HERE, *, shares: bool = False
    ) -> None:
        super().__init__(module)
        self.name, self.tier, self.shares = name, tier, shares
        self.keeps_output = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own ``forward``.

        Raises:
            Unsupported: the operators of the recompute would have other numbers.
        """
        if self.shares and _casts_once():
            raise Unsupported(
                f"{type(self.module).__name__} shares parameters with another block, and autocast"
                " casts them in the first alone, but in the recompute of each; use"
                " torch.autocast(..., cache_enabled=False), or a strategy of whole blocks"
            )
        policy = OpPolicy(self.name, self.tier)
        output = recompute(self.original, self.state, args, kwargs, policy.contexts)
        policy.cache.send()
        self.keeps_output = not policy.kept.isdisjoint(map(storage_key, tensors_in(output)))
        return output


def _casts_once() -> bool:
    """Whether a parameter is cast where it is first used, and the copy is used from then on."""
    is_cast = any(map(torch.is_autocast_enabled, device_kinds()))
    return torch.is_autocast_cache_enabled() and is_cast


class OpPolicy:
    """The policy of one call of a block.

    Attributes:
        name: ``products`` or ``keep(…)``.
        cache: of outputs, some of which rest elsewhere.
        kept: the storages kept.
    """

    def __init__(self, name: str, tier: Tier = HERE) -> None:
        self.products = name == PRODUCTS
        self.positions = kept_by(name) or frozenset()
        self.away = frozenset() if tier.on_device else away_by(name)
        self.cache = Cache(tier)
        self.kept: set[int] = set()
        self.decisions: list[CheckpointPolicy] = []
        self.asked_again = 0
        self.random_kept = False

    def contexts(self) -> Pair:
        """Of forward and of recompute."""
        if self.away or not SAYS_OUTPUT:
            return _Once(Keeping(self.cache, self.asked)), _Once(Giving(self.cache))
        forward, again = create_selective_checkpoint_contexts(self)
        if hasattr(forward, "respect_saved_tensors_hooks"):  # of PyTorch 2.14 and later
            # What a policy keeps stays where it is, as in every earlier version. `checkpoint` would
            # put its own argument's default there, if it saw what this is.
            forward.respect_saved_tensors_hooks = False
        return _Once(forward), _Once(again)

    def __call__(
        self, context: SelectiveCheckpointContext, func: Any, *args: Any, **kwargs: Any
    ) -> CheckpointPolicy:
        """Decide in forward; the same in recompute, where older versions of PyTorch ask again."""
        if context.is_recompute:
            self.asked_again += 1
            return self.decisions[self.asked_again - 1]
        self.asked(func, args, kwargs, context.op_output)
        return self.decisions[-1]

    def asked(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> tuple[bool, bool]:
        """Decide whether an output is kept, and whether elsewhere."""
        away = len(self.decisions) in self.away
        kept = self._keeps(func, args, kwargs)
        if kept:
            self.kept |= {storage_key(tensor) for tensor in tensors_in(output)}
        policy = CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.MUST_RECOMPUTE
        self.decisions.append(policy)
        return kept, away

    def _keeps(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        random = is_random(func, args, kwargs)
        if self.products:
            return is_product(func) and can_be_kept(func) and not random
        chosen = len(self.decisions) in self.positions and can_be_kept(func)
        if random and self.random_kept and not chosen:
            raise Unsupported(
                f"the block's operators are not those that were profiled: {func} draws random"
                " numbers after one whose output is kept, and would draw others when it runs again"
            )
        self.random_kept |= random and chosen
        return chosen


class _Once:
    """A context the first time; nothing after that.

    Selective checkpointing gives kept outputs away in the first recompute, so that they are freed
    in time, and refuses a second one. In a graph that is retained, the second recompute runs every
    operator again, random ones too, and in order: from the state that the checkpoint kept, they
    draw the numbers of forward.
    """

    def __init__(self, context: AbstractContextManager[Any]) -> None:
        self.contexts = [context]
        self.entered: list[AbstractContextManager[Any]] = []

    def __enter__(self) -> None:
        context = self.contexts.pop() if self.contexts else contextlib.nullcontext()
        context.__enter__()
        self.entered.append(context)

    def __exit__(self, *exception: Any) -> bool | None:
        return self.entered.pop().__exit__(*exception)
