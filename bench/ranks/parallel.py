"""How ranks share one training step, as a value: ``fsdp2``, ``fsdp2+tp=2`` and so on."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.utils._python_dispatch import _disable_current_modes

from bench.ranks import context

Data = Literal["none", "ddp", "fsdp2"]


@dataclasses.dataclass(frozen=True)
class Parallel:
    """A mesh of ranks and what each of its dimensions shares.

    Attributes:
        data: how ranks with batches of their own keep parameters; ``none``: there is one such.
        replicas: ranks that have a batch of their own.
        reshard: under fsdp2, whether a block's parameters are given back after forward, and
            gathered again for backward.
        mixed: under fsdp2, whether parameters are gathered in bf16 and gradients summed in fp32,
            while weights rest as they are.
        context: ranks that share each sequence of a batch.
        tensor: ranks that share each block's matrices (tensor parallel).
        sequence: whether those ranks share the sequence between matrices, too.
        megatron: whether they do so as Megatron-LM does, not by DTensor.
        pipeline: ranks that have blocks of their own.
        microbatches: parts of a rank's batch that go through a pipeline one after the other; 0:
            as many as it has stages.
        gpipe: whether all go forward before the first goes backward; otherwise each goes backward
            as soon as it can (1F1B).
    """

    data: Data = "none"
    replicas: int = 1
    reshard: bool = True
    mixed: bool = False
    context: int = 1
    tensor: int = 1
    sequence: bool = False
    megatron: bool = False
    pipeline: int = 1
    microbatches: int = 0
    gpipe: bool = False

    @property
    def dimensions(self) -> dict[str, int]:
        """The mesh, outermost dimension first: those ranks are farthest apart."""
        sizes = {"pp": self.pipeline, "dp": self.replicas, "cp": self.context, "tp": self.tensor}
        return {name: size for name, size in sizes.items() if size > 1 or name == "dp"}

    @property
    def ranks(self) -> int:
        """All of them."""
        return math.prod(self.dimensions.values())

    @property
    def parts(self) -> int:
        """Micro-batches of a step."""
        return self.microbatches or self.pipeline

    def mesh(self, device: str) -> DeviceMesh:
        """The mesh, of the default process group.

        Args:
            device: type of the ranks' devices.
        """
        sizes = self.dimensions
        return init_device_mesh(device, tuple(sizes.values()), mesh_dim_names=tuple(sizes))

    def share(self, batch: tuple[torch.Tensor, ...], mesh: DeviceMesh) -> tuple[torch.Tensor, ...]:
        """A rank's own examples of the global batch: memory of their own, equal parts."""
        place = mesh["dp"].get_local_rank()
        own = [t.chunk(self.replicas)[place] for t in batch]
        if self.context == 1:
            return tuple(t.clone() for t in own)
        part = mesh["cp"].get_local_rank()
        return tuple(context.shared(t, part, self.context) for t in own)

    def data_mesh(self, mesh: DeviceMesh) -> DeviceMesh:
        """Of the ranks that have other tokens, whose gradients are summed."""
        if self.context == 1:
            return mesh["dp"]
        with _disable_current_modes():  # a mesh is real, where tensors are fake, too
            return mesh["dp", "cp"]._flatten("data")


@dataclasses.dataclass(frozen=True)
class _Term:
    """What a term of the text says.

    Attributes:
        size: the field that its size is.
        fields: others that it sets.
        options: fields that may stand in its brackets, and what type they have.
    """

    size: str
    fields: Mapping[str, Any]
    options: Mapping[str, type]


_TERMS = {
    "ddp": _Term("replicas", {"data": "ddp"}, {}),
    "fsdp2": _Term("replicas", {"data": "fsdp2"}, {"reshard": bool, "mixed": bool}),
    "cp": _Term("context", {}, {}),
    "tp": _Term("tensor", {}, {}),
    "sp": _Term("tensor", {"sequence": True}, {}),
    "megatron": _Term("tensor", {"megatron": True}, {"sequence": bool}),
    "pp": _Term("pipeline", {}, {"microbatches": int, "gpipe": bool}),
}
_TEXT = re.compile(r"(?P<name>[a-z]+2?)(\((?P<options>\w+=\w+(,\w+=\w+)*)\))?(=(?P<size>[0-9]+))?")


def parse(text: str, ranks: int) -> Parallel:
    """What ``text`` asks of so many ranks: terms joined by ``+``. One may lack its size.

    Raises:
        ValueError: an unknown term or option, one twice, or sizes that are not those of the ranks.
    """
    fields: dict[str, Any] = {}
    sizes: dict[str, int | None] = {}
    for part in text.replace(" ", "").split("+"):
        term, more, size = _parsed(part)
        if term.size in sizes:
            raise ValueError(f"--set-parallel {text!r} divides {term.size} twice")
        sizes[term.size] = size
        fields |= {**term.fields, **more}
    found = Parallel(**(fields | _sized(sizes, ranks, text)))
    if found.context > 1 and found.data == "none":  # somebody must sum its ranks' gradients
        return dataclasses.replace(found, data="ddp")
    return found


def _parsed(part: str) -> tuple[_Term, dict[str, Any], int | None]:
    match = _TEXT.fullmatch(part)
    term = _TERMS.get(match["name"]) if match else None
    if match is None or term is None:
        raise ValueError(
            f"--set-parallel takes {', '.join(_TERMS)}, joined by +, such as"
            f" fsdp2(reshard=false)+tp=2; not {part!r}"
        )
    size = int(match["size"][:9]) if match["size"] else None
    fields: dict[str, Any] = {}
    for option in filter(None, (match["options"] or "").split(",")):
        name, _, value = option.partition("=")
        if name in fields:
            raise ValueError(f"{part!r} gives {name} twice")
        fields |= _option(term, part, name, value)
    return term, fields, size


def _option(term: _Term, part: str, name: str, text: str) -> dict[str, Any]:
    kind = term.options.get(name)
    value = json.loads(text) if re.fullmatch(r"true|false|[1-9][0-9]{0,8}", text) else None
    if kind is None or type(value) is not kind:
        valid = [f"{n}=true or false" if k is bool else f"{n}=2" for n, k in term.options.items()]
        raise ValueError(f"{part!r}: in brackets may stand {', '.join(valid) or 'nothing'}")
    return {name: value}


def _sized(sizes: Mapping[str, int | None], ranks: int, text: str) -> dict[str, int]:
    """Every size; the one that is not given is what the others leave."""
    known = {field: size for field, size in sizes.items() if size is not None}
    missing = [field for field in sizes if field not in known]
    product = math.prod(known.values())
    if len(missing) > 1:
        raise ValueError(f"--set-parallel {text!r}: only one size may be left out")
    if missing and product and ranks % product == 0:
        return {**known, missing[0]: ranks // product}
    if missing or product != ranks:
        raise ValueError(f"--set-parallel {text!r} does not divide {ranks} ranks")
    return known
