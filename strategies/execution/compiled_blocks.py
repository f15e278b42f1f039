"""Blocks that are compiled by themselves, each under a memory budget of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from strategies.execution import compiler
from strategies.execution.chain import Chain
from strategies.execution.compiler import AOT_EAGER, INDUCTOR, Backend
from strategies.execution.stand_in import StandIn
from strategies.execution.undo import Undo
from strategies.schedules.modes import COMPILED, PARTITIONED, Compilation

BACKENDS = {COMPILED: INDUCTOR, PARTITIONED: AOT_EAGER}


def install(chain: Chain, names: Mapping[int, str]) -> list[Undo]:
    """Make blocks run compiled.

    Args:
        chain: the model's blocks.
        names: modes by block; those of other kinds are passed over.

    Returns:
        How to undo it, to be run in reverse.
    """
    compilations = {index: Compilation.parse(name) for index, name in names.items()}
    return [
        CompiledForward(chain.blocks[index], compilation).install()
        for index, compilation in compilations.items()
        if compilation is not None
    ]


class CompiledForward(StandIn):
    """Runs a block compiled under a budget.

    Equal blocks share what is compiled, and so do copies: it is kept by PyTorch, not here.
    """

    def __init__(self, module: nn.Module, compilation: Compilation) -> None:
        super().__init__(module)
        self.compilation = compilation

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own ``forward``.

        Without gradients there is nothing to save; and where PyTorch would not compile (a dispatch
        mode counts operators, or a compiler of the whole model looks on), the block runs as it is.

        Raises:
            Unsupported: the gradient would be wrong.
        """
        aside = torch.compiler.is_compiling() or not torch.is_grad_enabled()
        if aside or compiler.would_be_ignored():
            return self.original(*args, **kwargs)
        function, owner = self._function()
        return compiler.run(compiler.compiled(function, self._backend), owner, *args, **kwargs)

    @property
    def _backend(self) -> Backend:
        per_cent, how = self.compilation.per_cent, self.compilation.how
        return Backend(per_cent / 100, BACKENDS[how], self.compilation.name)

    def _function(self) -> tuple[Any, Any]:
        """What is compiled, the same for equal blocks, and its first argument."""
        if self.inner is None:
            return type(self.module).forward, self.module
        return compiler.unbound(self.inner)
