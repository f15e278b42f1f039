"""The workload contract: a frozen, seeded description that builds model, batch and loss."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

Attention = Literal["math", "flash"]
Batch = tuple[Tensor, ...]

SIZES = ("layers", "seq", "batch", "dim", "heads")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload(abc.ABC):
    """A model, a batch and a loss, the same on every machine for the same fields.

    Fields are the shape; `with_options` makes a variant. ``blocks`` is the dotted path (or paths,
    comma separated) of the chain's containers in the model.
    """

    name: str
    summary: str
    layers: int
    batch: int
    dim: int
    seed: int = 0

    blocks: ClassVar[str]

    @abc.abstractmethod
    def build(self) -> nn.Module:
        """The model, on the current default device, in training mode, before seeding."""

    @abc.abstractmethod
    def make_batch(self) -> Batch:
        """The input tensors (CPU), the same for the same fields."""

    @abc.abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scalar loss of one forward pass."""

    def model(self) -> nn.Module:
        """The model with its seeded initial weights, in training mode."""
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
            _check(key, value)
        variant = dataclasses.replace(self, **options)
        variant.validate()
        return variant

    def validate(self) -> None:
        """Raise ``ValueError`` when fields do not fit together (say, heads and dim)."""

    def option_names(self) -> tuple[str, ...]:
        """Fields that a user may set."""
        fixed = {"name", "summary"}
        return tuple(f.name for f in dataclasses.fields(self) if f.name not in fixed)

    def options(self) -> dict[str, Any]:
        """The fields' values, for the record."""
        return {name: getattr(self, name) for name in self.option_names()}


def _check(key: str, value: Any) -> None:
    if key in SIZES and (not isinstance(value, int) or value < 1):
        raise ValueError(f"{key} must be a whole number of at least 1, not {value!r}")
    if key == "attention" and value not in get_args(Attention):
        raise ValueError(f"attention must be one of {', '.join(get_args(Attention))}, not {value!r}")
