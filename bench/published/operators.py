"""Single operators, as benchmarks of kernels run them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.published.subject import Builder, Mark, Options, Subject, made_in


def _with_gradient(*tensors: Tensor) -> None:
    """Gradients are there from the iteration before."""
    for tensor in tensors:
        tensor.grad = torch.zeros_like(tensor)


def _own(module: nn.Module) -> nn.Module:
    _with_gradient(*module.parameters())
    return module


def _repeated(forward: Callable[[], Tensor], gradient: Tensor | None) -> Callable[[Mark], None]:
    """Forward, then backward with a retained graph; gradients add up."""

    def step(mark: Mark) -> None:
        out = forward()
        mark("forward")
        out.backward(gradient, retain_graph=True)

    return step


class RootMeanSquareNorm(nn.Module):
    """As transformers writes it for Llama: in fp32, then back, times the weight."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``[…, width]`` to the same."""
        dtype = x.dtype
        x = x.to(torch.float32)
        variance = x.pow(2).mean(-1, keepdim=True)
        x = x * torch.rsqrt(variance + self.eps)
        return self.weight * x.to(dtype)


class GatedMlp(nn.Module):
    """Llama's feed-forward network."""

    def __init__(self, width: int, inner: int, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """``[…, width]`` to the same."""
        out: Tensor = self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))
        return out


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


def rms_norm(options: Options) -> Subject:
    """Norm of ``rows`` × ``width``; ``idle`` other norms lie on the device beside it."""
    width = options["width"]
    with made_in(options["dtype"]):
        x = torch.randn(options["rows"], width, requires_grad=True)
    norm, gradient = _own(RootMeanSquareNorm(width)), torch.randn_like(x)
    _with_gradient(x)
    idle = [RootMeanSquareNorm(width) for _ in range(options.get("idle", 0))]
    return Subject(_repeated(lambda: norm(x), gradient), [norm, *idle], [x, gradient])


def layer_norm(options: Options) -> Subject:
    """The same with PyTorch's layer norm."""
    width = options["width"]
    with made_in(options["dtype"]):
        x = torch.randn(options["rows"], width, requires_grad=True)
        norm, gradient = _own(nn.LayerNorm(width)), torch.randn_like(x)
    _with_gradient(x)
    idle = [nn.LayerNorm(width, dtype=x.dtype) for _ in range(options.get("idle", 0))]
    return Subject(_repeated(lambda: norm(x), gradient), [norm, *idle], [x, gradient])


def cross_entropy(options: Options) -> Subject:
    """Of ``rows`` × ``vocabulary`` logits that are a leaf."""
    rows, vocabulary = options["rows"], options["vocabulary"]
    with made_in(options["dtype"]):
        logits = torch.randn(rows, vocabulary, requires_grad=True)
    target = torch.randint(vocabulary, (rows,))
    _with_gradient(logits)
    step = _repeated(lambda: F.cross_entropy(logits, target), None)
    return Subject(step, tensors=[logits, target])


def gated_mlp(options: Options) -> Subject:
    """A gated network on ``batch`` × ``length`` × ``width``; backward draws its gradient."""
    shape = (options["batch"], options["length"], options["width"])
    act = _ACTIVATIONS[options["activation"]]
    with made_in(options["dtype"]):
        x = torch.randn(shape, requires_grad=True)
        layer = _own(GatedMlp(options["width"], options["inner"], act))
    _with_gradient(x)

    def step(mark: Mark) -> None:
        out = layer(x)
        mark("forward")
        out.backward(torch.randn_like(out), retain_graph=True)

    return Subject(step, [layer], [x])


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return (x * cos) + (turned * sin)


def rotary(options: Options) -> Subject:
    """Rotary positions of queries and keys, and the gradients of both."""
    length, head = options["length"], options["width"] // options["heads"]

    def heads(count: int) -> Tensor:
        return torch.randn(1, length, count, head, requires_grad=True).transpose(1, 2)

    with made_in(options["dtype"]):
        q, k = heads(options["heads"]), heads(options["kv_heads"])
        cos, sin = (torch.randn(1, length, head) for _ in range(2))
    gradients = torch.randn_like(q), torch.randn_like(k)
    positions = torch.arange(length).unsqueeze(0)
    frequencies = torch.randn(head // 2)

    def step(mark: Mark) -> None:
        wide_cos, wide_sin = cos.unsqueeze(1), sin.unsqueeze(1)
        out = _rotated(q, wide_cos, wide_sin), _rotated(k, wide_cos, wide_sin)
        mark("forward")
        torch.autograd.grad(out, (q, k), gradients, allow_unused=True, retain_graph=True)

    # The angles are a product of positions and frequencies.
    resident = [q, k, *gradients, positions, cos, sin, frequencies]
    return Subject(step, tensors=resident, multiplied=True)


OPERATORS: dict[str, Builder] = {
    "rms_norm": rms_norm,
    "layer_norm": layer_norm,
    "cross_entropy": cross_entropy,
    "gated_mlp": gated_mlp,
    "rotary": rotary,
}
