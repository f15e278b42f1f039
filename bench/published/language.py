"""Language models: of the transformers library, and small ones of published scripts."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.published.loops import Run, training
from bench.published.subject import Builder, Options, Subject, made_in


def transformers(options: Options) -> Subject:
    """A model of the transformers library, from its configuration alone.

    Options are ``class``, ``config`` (a mapping), ``dtype``, ``attention``, ``batch``, ``length``,
    ``loss`` (``own``: the model's, from labels; ``classes``: the same, one label a row;
    ``sum of logits``), ``mask`` (whether one of ones is given), ``types`` (of tokens, likewise),
    ``checkpointing``, ``buffer_bytes`` (of buffers that the model had then and has no more, each in
    a block of its own), and ``loop``.

    Raises:
        ValueError: the library is not installed.
    """
    kind = getattr(_library(), options["class"])
    config = kind.config_class(**options["config"])
    config._attn_implementation = options.get("attention", "eager")
    with made_in(options.get("dtype", "float32")):
        model: Any = kind._from_config(config).train()
    if options.get("checkpointing"):
        model.gradient_checkpointing_enable(_CHECKPOINT)
    inputs = _inputs(options, config.vocab_size)
    older = [torch.empty(n, dtype=torch.uint8) for n in options.get("buffer_bytes", ())]
    tensors = [*inputs.values(), *older]
    return training(model, _forward(model, inputs, options), tensors, options["loop"])


def _library() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ValueError("its model needs the transformers library, version 5 or later") from error


_CHECKPOINT = {"use_reentrant": False, "preserve_rng_state": False}


def _inputs(options: Options, vocabulary: int) -> dict[str, Tensor]:
    shape = options["batch"], options["length"]
    inputs = {"input_ids": torch.randint(vocabulary, shape)}
    if options.get("mask"):
        inputs["attention_mask"] = torch.ones(shape, dtype=torch.int64)
    if options.get("types"):
        inputs["token_type_ids"] = torch.zeros(shape, dtype=torch.int64)
    if options["loss"] == "own":
        inputs["labels"] = torch.randint(vocabulary, shape)
    if options["loss"] == "classes":
        inputs["labels"] = torch.randint(2, shape[:1])
    return inputs


def _forward(model: nn.Module, inputs: dict[str, Tensor], options: Options) -> Run:
    def run() -> tuple[Any, Tensor]:
        outputs = model(**inputs)
        return outputs, outputs.logits.sum() if options["loss"] == "sum of logits" else outputs.loss

    return run


class CausalAttention(nn.Module):
    """minGPT's: scores, mask, softmax and dropout by hand, its mask a buffer."""

    def __init__(self, width: int, heads: int, length: int, dropout: float) -> None:
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.attn_dropout, self.resid_dropout = nn.Dropout(dropout), nn.Dropout(dropout)
        self.register_buffer("bias", torch.ones(1, 1, length, length))
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, width]`` to the same."""
        rows, length, width = x.size()
        parts = self.c_attn(x).split(width, dim=2)
        q, k, v = (p.view(rows, length, self.heads, -1).transpose(1, 2) for p in parts)
        att = (q @ k.transpose(-2, -1)) * (1.0 / k.size(-1) ** 0.5)
        bias: Any = self.bias
        att = att.masked_fill(bias[:, :, :length, :length] == 0, float("-inf"))
        att = self.attn_dropout(F.softmax(att, dim=-1))
        y = (att @ v).transpose(1, 2).contiguous().view(rows, length, width)
        out: Tensor = self.resid_dropout(self.c_proj(y))
        return out


class SlowGelu(nn.Module):
    """minGPT's, written out in seven operators."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        cubic = x + 0.044715 * torch.pow(x, 3.0)
        return 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * cubic))


class GptBlock(nn.Module):
    """minGPT's block."""

    def __init__(self, width: int, heads: int, length: int, dropout: float) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = CausalAttention(width, heads, length, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            SlowGelu(),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, T, width]`` to the same."""
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class MinGpt(nn.Module):
    """minGPT's model: learned positions, an untied head without bias."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        width, length = options["width"], options["positions"]
        dropout = options["dropout"]
        self.wte = nn.Embedding(options["vocabulary"], width)
        self.wpe = nn.Embedding(length, width)
        self.drop = nn.Dropout(dropout)
        heads, layers = options["heads"], options["layers"]
        blocks = (GptBlock(width, heads, length, dropout) for _ in range(layers))
        self.h = nn.ModuleList(blocks)
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, options["vocabulary"], bias=False)

    def forward(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and loss."""
        positions = torch.arange(ids.shape[1]).unsqueeze(0)
        x = self.drop(self.wte(ids) + self.wpe(positions))
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


def min_gpt(options: Options) -> Subject:
    """MinGPT on ``batch`` × ``length`` tokens."""
    model = MinGpt(options)
    shape = options["batch"], options["length"]
    ids, targets = (torch.randint(options["vocabulary"], shape) for _ in range(2))
    return training(model, lambda: model(ids, targets), [ids, targets], options["loop"])


LANGUAGE: dict[str, Builder] = {"transformers": transformers, "min_gpt": min_gpt}
