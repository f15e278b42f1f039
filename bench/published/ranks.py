"""What one of several ranks reserves: torchtitan's training of Llama 3.1."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

import strategies
from bench import workloads
from bench.cells.cell import Cell, checked
from bench.devices import accelerators
from bench.published.subject import Options
from bench.ranks.simulated import trace_rank
from bench.ranks.simulated_streams import DEFAULT, parts, taken_bytes
from bench.simulate.replay import steady
from bench.workloads.base import Batch
from bench.workloads.llama import LlamaWorkload
from strategies.execution.chain import Chain
from strategies.execution.undo import Undo

_KEPT = (
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
)


class TitanLlama(LlamaWorkload):
    """A Llama whose loss is of fp32 logits, as torchtitan's is."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy, in nats."""
        ids, targets = batch
        return F.cross_entropy(model(ids).flatten(0, 1).float(), targets.flatten())


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectiveOp(strategies.Strategy):
    """torchtitan's: of a block, attention and every second matrix product are kept."""

    def install(self, model: nn.Module, chain: Chain) -> Sequence[Undo]:
        """One checkpoint a block."""
        del model
        return [_checkpointed(block) for block in chain.blocks]


def _checkpointed(block: nn.Module) -> Undo:
    given: dict[str, Any] = {"use_reentrant": False, "context_fn": _contexts}
    block.forward = functools.partial(checkpoint, block.forward, **given)
    return functools.partial(block.__dict__.pop, "forward")


def _contexts() -> Any:
    products = {False: 0, True: 0}

    def policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        del args, kwargs
        kept = operator in _KEPT
        if operator is torch.ops.aten.mm.default:
            products[context.is_recompute] += 1
            kept = products[context.is_recompute] % 2 == 1
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


CHECKPOINTING = {
    "selective op": SelectiveOp(),
    "full": strategies.get("every_layer"),
    "none": strategies.get("none"),
}


def reserved_by_a_rank(options: Options) -> int:
    """`torch.cuda.max_memory_reserved` of a rank, in bytes, with expandable segments.

    Options are ``workload`` (a Llama), its ``options``, ``checkpointing``, ``device``, ``ranks``
    and ``parallel``; the optimizer is AdamW, and weights rest in fp32.
    """
    cell = checked(
        Cell(
            workload=options["workload"],
            options=options["options"],
            spec="none",
            device=options["device"],
            optimizer="adamw",
            ranks=options["ranks"],
            parallel=options["parallel"],
        )
    )
    shape = workloads.get(cell.workload, **cell.options)
    fields = {field.name: getattr(shape, field.name) for field in dataclasses.fields(shape)}
    rank = trace_rank(
        cell, workload=TitanLlama(**fields), strategy=CHECKPOINTING[options["checkpointing"]]
    )
    recorded = rank.simulation.trace
    given = recorded.workspaces(accelerators.get(cell.device))
    default = parts(recorded, rank.streams)[DEFAULT]
    own = steady(default, workspaces=given, expandable=True)
    return own.reserved_bytes + taken_bytes(recorded, rank.streams, expandable=True)
