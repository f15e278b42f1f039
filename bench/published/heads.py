"""The last product and its loss: upcast, capped, in chunks, each chunk checkpointed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bench.published.subject import Builder, Mark, Options, Subject, made_in


def linear_head(options: Options) -> Subject:
    """Cross-entropy of ``tokens`` × ``width`` states against ``vocabulary`` classes.

    Options, besides, are ``dtype``, ``soft_cap`` (of logits; none), ``upcast`` (logits to fp32),
    ``chunks`` (of tokens; one), ``checkpointed`` (each chunk's logits are made again in backward).
    Gradients go before each iteration.
    """
    tokens, vocabulary = options["tokens"], options["vocabulary"]
    with made_in(options["dtype"]):
        states = torch.randn(tokens, options["width"], requires_grad=True)
        weight = torch.randn(vocabulary, options["width"], requires_grad=True)
    targets = torch.randint(vocabulary, (tokens,))
    chunks = options.get("chunks", 1)

    def loss(rows: Tensor, classes: Tensor) -> Tensor:
        logits = rows @ weight.T
        if (cap := options.get("soft_cap")) is not None:
            logits = cap * torch.tanh(logits / cap)
        wide = logits.float() if options.get("upcast") else logits
        return F.cross_entropy(wide, classes, reduction="sum")

    def part(rows: Tensor, classes: Tensor) -> Tensor:
        if not options.get("checkpointed"):
            return loss(rows, classes)
        out: Tensor = checkpoint(loss, rows, classes, use_reentrant=False)
        return out

    def step(mark: Mark) -> None:
        states.grad = weight.grad = None
        mark("cleared")
        parts = zip(states.chunk(chunks), targets.chunk(chunks), strict=True)
        total = torch.stack([part(rows, classes) for rows, classes in parts]).sum() / tokens
        mark("forward")
        total.backward()
        mark("backward")

    return Subject(step, tensors=[states, weight, targets])


HEADS: dict[str, Builder] = {"linear_head": linear_head}
