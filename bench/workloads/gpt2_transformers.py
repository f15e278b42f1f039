"""GPT-2 as the transformers library has it, which brings checkpointing of its own."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from bench.workloads.base import Batch, Workload
from bench.workloads.text import TextWorkload
from strategies.execution.errors import Unsupported

_KERNELS = {"math": "eager", "flash": "sdpa"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpt2Transformers(TextWorkload):
    """``GPT2LMHeadModel`` of a configuration without weights, without dropout and caches."""

    blocks: ClassVar[str] = "transformer.h"

    def build(self) -> nn.Module:
        """The library's model.

        Raises:
            Unsupported: the library is not installed.
        """
        try:
            from transformers import GPT2Config, GPT2LMHeadModel  # noqa: PLC0415 - optional
        except ImportError as error:
            raise Unsupported(f"workload {self.name} needs transformers: {error}") from error
        settings: dict[str, Any] = {
            "vocab_size": self.vocab,
            "n_positions": self.seq,
            "n_embd": self.dim,
            "n_layer": self.layers,
            "n_head": self.heads,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "use_cache": False,
            "tie_word_embeddings": False,
            "attn_implementation": _KERNELS[self.attention],
        }
        model: nn.Module = GPT2LMHeadModel(GPT2Config(**settings))
        return model

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of the next byte, in nats."""
        ids, targets = batch
        return F.cross_entropy(model(ids).logits.flatten(0, 1), targets.flatten())


WORKLOADS: tuple[Workload, ...] = (
    Gpt2Transformers(
        name="gpt2-transformers",
        summary="GPT-2 of the transformers library, as small as gpt-mini",
        layers=8,
        dim=256,
        heads=4,
        seq=256,
        batch=4,
    ),
)
