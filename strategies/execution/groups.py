"""How a block runs in its groups: at its own time, under the hooks of their frames."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch._compile import _disable_dynamo

from strategies.execution.errors import Unsupported, writes_arguments
from strategies.execution.frames import Frame
from strategies.execution.hooked import call_again
from strategies.execution.hooks import Laid
from strategies.execution.late import run_to_the_end
from strategies.execution.met import Met
from strategies.execution.recording import is_exported, is_recorded
from strategies.execution.scopes import Group, Position, Scope, Scopes
from strategies.execution.stand_in import StandIn
from strategies.execution.state import WatchingStandIn
from strategies.execution.tensors import boundary_of, flat, leaves_of


class GroupedForward(WatchingStandIn):
    """Runs a block in its groups' frames.

    Attributes:
        positions: in the chain; a block that is there several times is called so often.
        scopes: shared by all blocks.
    """

    def __init__(
        self, module: nn.Module, positions: Sequence[Position], scopes: Scopes, entry: str
    ) -> None:
        super().__init__(module, entry)
        self.positions, self.scopes = positions, scopes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's own ``forward``."""
        if torch.compiler.is_compiling() and not is_exported():
            refuse_compilation()
        scope = self.scopes.stack[-1]
        if scope.again is not None:
            (position, met, args, kwargs), scope.again = scope.again, None
            with met:
                scope.output = self.run(scope, position, args, kwargs)
            return scope.output
        if scope.inside:
            return self.original(*args, **kwargs)
        position = self.positions[scope.count(self) % len(self.positions)]
        if not is_recorded():
            return self.original(*args, **kwargs)
        return self.run(scope, position, args, kwargs)

    def run(self, scope: Scope, position: Position, args: Any, kwargs: Any) -> Any:
        """Run the block under the hooks of its groups; a failure ends all frames."""
        groups = position.groups[scope.depth :]
        if not groups:
            with Laid(scope.hooks) if scope.hooks else contextlib.nullcontext():
                return self.alone(scope, args, kwargs)
        leaves, spec = flat(args, kwargs)
        with Laid() as laid:
            met = self.state.begin(leaves)
            if scope.hooks is not None:
                laid.add(scope.hooks)
            for depth, group in enumerate(groups, scope.depth + 1):
                frame = scope.frames.get(group)
                sources = frame.sources(leaves) if frame else ()
                if frame is None or not frame.continues(sources):
                    frame = scope.frames[group] = self.frame(group, depth, leaves, args, kwargs)
                    sources = frame.sources(leaves)
                again = functools.partial(self.again, position, met)
                frame.enter(again, leaves, sources, spec)
                laid.add(frame.hooks)
            try:
                output = self.alone(scope, args, kwargs)
            except BaseException:
                scope.frames.clear()
                raise
            self.state.end(met, leaves)
        late = self.state.is_late is not False and self.state.finds_late(output, leaves)
        for group in groups:
            frame = scope.frames[group]
            if late:
                run_to_the_end(frame.hooks, self.module)
            if met.written and frame.wants(met.written):
                raise writes_arguments(self.module)
            if position.index == group.last:
                del scope.frames[group]
            else:
                frame.leave(leaves_of(output))
        return output

    def alone(self, scope: Scope, args: Any, kwargs: Any) -> Any:
        """Run the block; others that it calls, or itself, run as parts of it."""
        scope.inside = True
        try:
            return self.original(*args, **kwargs)
        finally:
            scope.inside = False

    def frame(
        self, group: Group, depth: int, leaves: Sequence[Any], args: Any, kwargs: Any
    ) -> Frame:
        """A new frame, which begins with this block."""
        around = functools.partial(self.scopes.recompute, depth)
        block = self.state.unexamined if group.exact else None
        if group.storage is None:
            return Frame(leaves, around, contextlib.nullcontext(), block)
        return Frame(leaves, around, group.storage.keep(boundary_of(self, args, kwargs)), block)

    def again(
        self, position: Position, met: Met, scope: Scope, args: Any, kwargs: Any
    ) -> Sequence[Any]:
        """Run the block again, as a module."""
        scope.again = position, met, args, kwargs
        call_again(self.module, args, kwargs)
        if not scope.is_taken():
            raise Unsupported(
                f"{type(self.module).__name__} has another forward than when the strategy was"
                " applied; apply it after the change, or undo the change before"
            )
        output, scope.output = scope.output, None
        return leaves_of(output)


class RootForward(StandIn):
    """Of the model: a forward begins and ends with no open frame, whatever blocks it leaves out."""

    def __init__(self, module: nn.Module, scopes: Scopes) -> None:
        super().__init__(module)
        self.scopes = scopes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own ``forward``."""
        if torch.compiler.is_compiling():
            return self.original(*args, **kwargs)
        scope = self.scopes.stack[-1]
        scope.reset()
        try:
            return self.original(*args, **kwargs)
        finally:
            scope.reset()


@_disable_dynamo  # as torch.compiler.disable, which would import the compiler here and now
def refuse_compilation() -> None:
    """Called where a compiler traces the model; runs, and raises, when the compiled model runs.

    Raises:
        Unsupported: always.
    """
    raise Unsupported(
        "a recompute group of several blocks cannot be compiled as a part of the model; compile the"
        " blocks instead: strategies.apply(model, ..., compile_blocks=True), or block.compile() for"
        " each before apply"
    )
