"""The workload contract: a frozen, seeded description that builds model, batch and loss."""

from __future__ import annotations

import abc
import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn

Attention = Literal["math", "flash"]
Scale = Literal["quick", "real", "large"]
Batch: TypeAlias = Any
"""Tensors in whatever the loss takes: a tuple of them for all workloads of this package; a tensor,
a list or a mapping for models of others. ``torch.utils._pytree`` walks through all of these."""

_TEXT_SIZES = ("kv_heads", "ffn", "vocab", "positions")
_IMAGE_SIZES = ("image", "patch", "classes")
SIZES = ("layers", "seq", "batch", "dim", "heads", *_TEXT_SIZES, *_IMAGE_SIZES)
FIXED = frozenset({"name", "summary", "scale", "seed"})
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a name"}


class Code(NamedTuple):
    """Code and facts outside this project that decide what a workload is.

    Attributes:
        modules: dotted names of the files to begin with.
        folders: top-level modules and packages that are followed, and where they lie.
        facts: anything else, such as a library's version.
    """

    modules: tuple[str, ...] = ()
    folders: tuple[tuple[str, Path], ...] = ()
    facts: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload(abc.ABC):
    """A model, a batch and a loss, the same for the same fields.

    "The same" holds bit for bit with one release of Python (whose own source text is the data)
    and of PyTorch, on one kind of CPU.

    Fields are the shape; `with_options` makes a variant.

    Attributes:
        name: What a user types.
        summary: One line for a list.
        seed: Of the initial weights and of the data.
        scale: ``quick`` takes about a second or less per step on a CPU, ``real`` is a published
            model that a CPU still runs, ``large`` needs simulation or an accelerator.
        of_batch: Fields that decide the batch, and nothing of the model.
    """

    of_batch: ClassVar[frozenset[str]] = frozenset()

    name: str
    summary: str
    seed: int = 0
    scale: Scale = "quick"

    @property
    @abc.abstractmethod
    def blocks(self) -> str:
        """Dotted path (or paths, comma separated) of the chain's containers; empty: to be found."""

    def __post_init__(self) -> None:
        """Check every field, so that no impossible workload exists."""
        for key, value in self.options().items():
            _check(key, value)
        self.validate()

    @abc.abstractmethod
    def build(self) -> nn.Module:
        """The model, on the current default device, in training mode, before seeding."""

    @abc.abstractmethod
    def make_batch(self) -> Batch:
        """The input tensors (CPU), the same for the same fields."""

    def code(self) -> Code:
        """What decides the workload, besides its fields and the files of its class."""
        return Code()

    @abc.abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scalar loss of one forward pass."""

    def model(self) -> nn.Module:
        """The model with its seeded initial weights, in training mode.

        Build it on the CPU and move it: other devices draw other random numbers.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.build().train()

    def with_options(self, **options: Any) -> Workload:
        """A variant with some fields replaced.

        Raises:
            ValueError: an option that this workload does not have, or an impossible value.
        """
        valid = self.option_names()
        for key, value in options.items():
            if key not in valid:
                raise ValueError(
                    f"workload {self.name!r} has no option {key!r}; it has {', '.join(valid)}"
                )
            _check_type(key, value, getattr(self, key))
        return dataclasses.replace(self, **options)

    def validate(self) -> None:  # noqa: B027 - most have something to check, none must
        """Raise ``ValueError`` when fields do not fit together (say, heads and dim)."""

    def option_names(self) -> tuple[str, ...]:
        """Fields that a user may set."""
        own = [f.name for f in dataclasses.fields(self) if f.name not in FIXED]
        return (*own, "seed")

    def options(self) -> dict[str, Any]:
        """The fields' values, for the record."""
        return {name: getattr(self, name) for name in self.option_names()}

    def model_options(self) -> dict[str, Any]:
        """Those that decide the model; `of_batch` decide the batch alone."""
        return {name: v for name, v in self.options().items() if name not in self.of_batch}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizedWorkload(Workload):
    """A workload of this package.

    Attributes:
        layers: Number of blocks in the chain.
        batch: Examples per step.
        dim: Width of the stream between blocks, in features.
    """

    of_batch: ClassVar[frozenset[str]] = frozenset({"batch"})

    layers: int
    batch: int
    dim: int


def _check_type(key: str, value: Any, current: Any) -> None:
    """Refuse a value of another plain type than the field has; an int will do for a float."""
    kind = type(current)
    if kind not in _KINDS or type(value) is kind or (kind is float and type(value) is int):
        return
    raise ValueError(f"{key} must be {_KINDS[kind]}, not {value!r}")


def _check(key: str, value: Any) -> None:
    """Refuse a value that no workload can have, whatever its other fields."""
    if key == "attention" and value not in get_args(Attention):
        raise ValueError(
            f"attention must be one of {', '.join(get_args(Attention))}, not {value!r}"
        )
    if key == "dropout" and not 0.0 <= value < 1.0:
        raise ValueError(f"dropout must be at least 0 and below 1, not {value!r}")
    if key == "seed" and value < 0:
        raise ValueError(f"seed must be at least 0, not {value!r}")
    if key in SIZES and (type(value) is not int or value < 1):
        raise ValueError(f"{key} must be a whole number of at least 1, not {value!r}")
