"""Of plain torch: a transformer, a stack of LSTMs, a U-Net with skips, and one without a list."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from bench.architectures.base import HEADS, LAYERS, POSITIONS, ROWS, WIDTH, Architecture, Built
from bench.architectures.batches import sequence


class Residual(nn.Module):
    """An LSTM around which its input passes; drops."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.LayerNorm(WIDTH), nn.Dropout(0.1)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def forward(self, hidden: Tensor) -> Tensor:
        """Shape (rows, positions, width) in and out."""
        output, _ = self.lstm(self.norm(hidden))
        return hidden + self.drop(output)  # type: ignore[no-any-return]


class Convolution(nn.Module):
    """Two convolutions with batch statistics."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    def forward(self, image: Tensor) -> Tensor:
        """An image of the same size."""
        return self.body(image)  # type: ignore[no-any-return]


class UNet(nn.Module):
    """Each level on the way up also reads that of the way down."""

    def __init__(self, levels: int = 4, width: int = 8) -> None:
        super().__init__()
        sizes = [3, *[width] * levels]
        self.down = nn.ModuleList(Convolution(a, b) for a, b in itertools.pairwise(sizes))
        self.up = nn.ModuleList(Convolution(2 * width, width) for _ in range(levels - 1))
        self.head = nn.Conv2d(width, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        """An image of the same size."""
        skips = []
        for number, block in enumerate(self.down):
            image = block(image if number == 0 else nn.functional.max_pool2d(image, 2))
            skips.append(image)
        for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            wide = nn.functional.interpolate(image, scale_factor=2)
            image = block(torch.cat((wide, skip), 1))
        return self.head(image)  # type: ignore[no-any-return]


class HandwrittenUNet(nn.Module):
    """As in a tutorial: each level is an attribute."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = Convolution(3, width)
        self.down1, self.down2 = Convolution(width, width), Convolution(width, width)
        self.middle = Convolution(width, width)
        self.up1, self.up2 = Convolution(2 * width, width), Convolution(2 * width, width)
        self.head = nn.Conv2d(width, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        """An image of the same size."""
        first = self.down1(self.stem(image))
        second = self.down2(nn.functional.max_pool2d(first, 2))
        lowest = self.middle(nn.functional.max_pool2d(second, 2))
        wide = self.up1(torch.cat((nn.functional.interpolate(lowest, scale_factor=2), second), 1))
        wide = self.up2(torch.cat((nn.functional.interpolate(wide, scale_factor=2), first), 1))
        return self.head(wide)  # type: ignore[no-any-return]


def transformer() -> Built:
    """Encoder and decoder as torch has them."""
    model = nn.Transformer(WIDTH, HEADS, LAYERS, LAYERS, 2 * WIDTH, batch_first=True)
    return model, (torch.randn(ROWS, POSITIONS, WIDTH), torch.randn(ROWS, POSITIONS - 4, WIDTH))


def lstm() -> Built:
    """A stack of LSTMs, residual."""
    return nn.Sequential(*(Residual() for _ in range(LAYERS))), sequence()


def u_net() -> Built:
    """Of four levels."""
    return UNet(), (torch.randn(ROWS, 3, 32, 32),)


def handwritten_u_net() -> Built:
    """Of three levels."""
    return HandwrittenUNet(), (torch.randn(ROWS, 3, 32, 32),)


OWN = {
    "nn.Transformer": Architecture("torch", transformer),
    "LSTM stack": Architecture("torch", lstm),
    "U-Net": Architecture("torch", u_net),
    "U-Net, handwritten": Architecture("torch", handwritten_u_net),
}
