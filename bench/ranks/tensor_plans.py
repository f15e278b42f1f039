"""Which matrices of a block are split over ranks, and how: plans for `parallelize_module`.

After Shoeybi et al. 2019 (Megatron-LM, §3): the first matrix of a pair by columns, the second by
rows, so that ranks talk once after each pair. With sequence parallelism (Korthikanti et al. 2022,
§4.2.2) what lies between pairs is split along the sequence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import Placement, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
)

from bench.workloads.base import Workload
from bench.workloads.gpt import GptWorkload
from bench.workloads.llama import LlamaWorkload

Plan = dict[str, ParallelStyle]


@dataclasses.dataclass(frozen=True)
class Family:
    """How the blocks of one kind of model are split.

    Attributes:
        pairs: of a block's modules that hold a pair of matrices: those split by columns, those
            split by rows, and how many arguments it takes.
        norms: modules of a block between the pairs.
        fused: matrices that hold several, one above the other; each is split by itself.
        heads: attributes of ``attn`` that count heads, which ranks share.
        ends: of the model around the blocks, with the sequence split between them or not.
        before: modules of the model that run before the blocks.
        after: those that run after them.
    """

    pairs: dict[str, tuple[tuple[str, ...], tuple[str, ...], int]]
    norms: tuple[str, ...]
    fused: dict[str, int]
    heads: tuple[str, ...]
    ends: Callable[[Workload, bool], Plan]
    before: tuple[str, ...]
    after: tuple[str, ...]

    def block_plan(self, *, sequence: bool) -> Plan:
        """Of one block."""
        between: Placement = Shard(1) if sequence else Replicate()
        plan: Plan = {name: SequenceParallel() for name in self.norms if sequence}
        for name, (columns, rows, arguments) in self.pairs.items():
            plan[name] = _entered(between, arguments)
            plan |= {f"{name}.{column}": ColwiseParallel() for column in columns}
            plan |= {f"{name}.{row}": RowwiseParallel(output_layouts=between) for row in rows}
        return plan


def _entered(between: Placement, arguments: int) -> ParallelStyle:
    """Gathered once for all that read it; in backward their gradients are summed first."""
    others = (None,) * (arguments - 1)
    return PrepareModuleInput(
        input_layouts=(between, *others), desired_input_layouts=(Replicate(), *others)
    )


def _gpt_ends(workload: Workload, sequence: bool) -> Plan:
    tied = getattr(workload, "tied", True)  # its one matrix is used as it is, so all keep it
    plan: Plan = {} if tied else {"wte": _embedding(Replicate()), "lm_head": _head(sequence)}
    if sequence:
        plan["drop"] = PrepareModuleOutput(
            output_layouts=Replicate(), desired_output_layouts=Shard(1)
        )
        plan["ln_f"] = _gathered() if tied else SequenceParallel()
    return plan


def _llama_ends(workload: Workload, sequence: bool) -> Plan:
    del workload
    between: Placement = Shard(1) if sequence else Replicate()
    plan: Plan = {"embed": _embedding(between), "lm_head": _head(sequence)}
    return plan | ({"norm": SequenceParallel()} if sequence else {})


def _embedding(output: Placement) -> ParallelStyle:
    return RowwiseParallel(input_layouts=Replicate(), output_layouts=output)


def _head(sequence: bool) -> ParallelStyle:
    between: Placement = Shard(1) if sequence else Replicate()
    return ColwiseParallel(input_layouts=between, output_layouts=Replicate())


def _gathered() -> ParallelStyle:
    return PrepareModuleInput(
        input_layouts=Shard(1), desired_input_layouts=Replicate(), use_local_output=True
    )


FAMILIES: dict[type[Workload], Family] = {
    GptWorkload: Family(
        pairs={
            "attn": (("c_attn",), ("c_proj",), 1),
            "mlp": (("c_fc",), ("c_proj",), 1),
        },
        norms=("ln_1", "ln_2"),
        fused={"attn.c_attn": 3},
        heads=("heads",),
        ends=_gpt_ends,
        before=("wte", "wpe", "drop"),
        after=("ln_f", "lm_head"),
    ),
    LlamaWorkload: Family(
        pairs={
            "attn": (("q_proj", "k_proj", "v_proj"), ("o_proj",), 2),
            "mlp": (("gate_proj", "up_proj"), ("down_proj",), 1),
        },
        norms=("norm_1", "norm_2"),
        fused={},
        heads=("heads", "kv_heads"),
        ends=_llama_ends,
        before=("embed",),
        after=("norm", "lm_head"),
    ),
}


def family_of(workload: Workload) -> Family | None:
    """How its blocks are split; ``None``: nobody has said."""
    return next((f for kind, f in FAMILIES.items() if isinstance(workload, kind)), None)


def interleaved(value: Tensor, parts: int, ranks: int) -> Tensor:
    """Rows of ``parts`` stacked matrices in the order in which ranks take them.

    ``ranks`` equal slices of the result hold a slice of every part each.
    """
    rows: Tensor = value.unflatten(0, (parts, ranks, -1))
    return rows.transpose(0, 1).flatten(0, 2)


def restored(value: Tensor, parts: int, ranks: int) -> Tensor:
    """`interleaved`, the other way."""
    return interleaved(value, ranks, parts)


@torch.no_grad()
def interleave(block: nn.Module, family: Family, ranks: int) -> None:
    """Put the rows of a block's fused matrices into the order of ranks, in place."""
    for name, parts in family.fused.items():
        for parameter in block.get_submodule(name).parameters():
            parameter.copy_(interleaved(parameter, parts, ranks))
