"""Splits a model over the ranks of a mesh, by torch's own engines, and names its pieces.

The same for real ranks and for those of a fake process group: nothing here talks to anybody but
through torch.distributed.
"""

from __future__ import annotations

import dataclasses
import re

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn.parallel import DistributedDataParallel

from bench.ranks import context, megatron, tensor_plans
from bench.ranks.parallel import Parallel
from bench.ranks.stages import cut
from bench.ranks.tensor_plans import family_of
from bench.workloads.base import Workload
from strategies import find_chain


@dataclasses.dataclass(frozen=True)
class Split:
    """A rank's part of a model.

    Attributes:
        model: to train, in place of the whole one.
        inner: holds blocks and parameters; DistributedDataParallel puts another module around it.
        blocks: where they are in it, for `strategies.prepare`.
        fused: by parameter, how many matrices lie above each other in it, each of them split.
        ranks: over how many ranks matrices are split.
        first_block: of all the model's, where a pipeline gives this rank a part of them.
    """

    model: nn.Module
    inner: nn.Module
    blocks: str
    fused: dict[str, int]
    ranks: int
    first_block: int = 0

    def gathered(self) -> dict[str, Tensor | None]:
        """Every gradient, whole, by the name that its parameter has in the whole model.

        All ranks of the mesh call this together.
        """
        return {
            self._name(name): None if p.grad is None else self._whole(name, p.grad)
            for name, p in self.inner.named_parameters()
        }

    def bucket_bytes(self) -> int:
        """What DistributedDataParallel keeps between steps to send gradients from."""
        if not isinstance(self.model, DistributedDataParallel):
            return 0
        known = self.model._get_ddp_logging_data()
        return sum(map(int, known["rebuilt_bucket_sizes"].split(",")))

    def settle(self) -> None:
        """Wait until the threads that talk are through with a step; all ranks call this together.

        DistributedDataParallel goes on as soon as a sum is there. Gloo's thread then still writes
        into the profiler's trace that it has made it, and a trace that is read meanwhile ends the
        process (SIGSEGV). A barrier waits for whatever its group was asked for before.
        """
        if isinstance(self.model, DistributedDataParallel):
            dist.barrier(group=self.model.process_group)

    def _whole(self, name: str, gradient: Tensor) -> Tensor:
        whole = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        parts = self.fused.get(name)
        return tensor_plans.restored(whole, parts, self.ranks) if parts else whole.detach()

    def _name(self, name: str) -> str:
        inside = re.fullmatch(rf"{re.escape(self.blocks)}\.(\d+)(\..*)", name)
        if not self.first_block or inside is None:
            return name
        return f"{self.blocks}.{int(inside[1]) + self.first_block}{inside[2]}"


def parallelise(
    model: nn.Module, mesh: DeviceMesh, parallel: Parallel, workload: Workload
) -> Split:
    """Split ``model``, which is changed, over the ranks of ``mesh``.

    Args:
        model: whole, of the workload, with the same weights on all ranks.
        mesh: see `bench.ranks.parallel.Parallel.mesh`.
        parallel: checked (`bench.ranks.divisible.problem`).
        workload: names the blocks, and the family of models.
    """
    first_block = 0
    if parallel.pipeline > 1:
        first_block = cut(model, workload, mesh["pp"].get_local_rank(), parallel.pipeline)
    fused: dict[str, int] = {}
    if parallel.megatron:
        own = list(find_chain(model, workload.blocks).blocks)
        megatron.split(own, mesh["tp"].get_group(), sequence=parallel.sequence)
    elif parallel.tensor > 1:
        fused = _split_matrices(model, mesh["tp"], parallel, workload)
    if parallel.context > 1:
        context.split(model, mesh["cp"].get_group())
    inner = model
    if parallel.data == "fsdp2":
        _shard(model, parallel.data_mesh(mesh), parallel, workload.blocks)
    elif parallel.data == "ddp":
        group = parallel.data_mesh(mesh).get_group()
        # All ranks begin with the same weights; on fake tensors there is nothing to compare.
        model = DistributedDataParallel(inner, process_group=group, init_sync=False)
    return Split(model, inner, workload.blocks, fused, parallel.tensor, first_block)


def _split_matrices(
    model: nn.Module, mesh: DeviceMesh, parallel: Parallel, workload: Workload
) -> dict[str, int]:
    family = family_of(workload)
    assert family is not None, "checked"
    fused: dict[str, int] = {}
    for path, block in model.get_submodule(workload.blocks).named_children():
        tensor_plans.interleave(block, family, parallel.tensor)
        parallelize_module(block, mesh, family.block_plan(sequence=parallel.sequence))
        for heads in family.heads:
            setattr(block.attn, heads, getattr(block.attn, heads) // parallel.tensor)
        for name, parts in family.fused.items():
            own = dict(block.get_submodule(name).named_parameters())
            fused |= {f"{workload.blocks}.{path}.{name}.{key}": parts for key in own}
    here = dict(model.named_children())  # a stage of a pipeline has not all of them
    ends = family.ends(workload, parallel.sequence).items()
    parallelize_module(model, mesh, {name: style for name, style in ends if name in here})
    return fused


def _shard(model: nn.Module, mesh: DeviceMesh, parallel: Parallel, blocks: str) -> None:
    """Each block is a unit of its own, and what is left, which backward begins with, is one."""
    policy = MixedPrecisionPolicy()
    if parallel.mixed:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in find_chain(model, blocks).blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=parallel.reshard, mp_policy=policy)
    # Of parameters that stay between the micro-batches of a pipeline torch 2.13 counts one gradient
    # twice, so there the rest is given back, too.
    reshard = True if parallel.pipeline > 1 else None
    fully_shard(model, mesh=mesh, reshard_after_forward=reshard, mp_policy=policy)
