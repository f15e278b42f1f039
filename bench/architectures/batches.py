"""What models are called with: tokens, images, waves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench.architectures.base import POSITIONS, ROWS, WIDTH, Batch, integers

IMAGE = 32
MELS = 16
FRAMES = 48


def tokens() -> Batch:
    """Of a language model that predicts its own input."""
    ids = integers(ROWS, POSITIONS)
    return {"input_ids": ids, "labels": ids.clone()}


def text() -> Batch:
    """Of a model without a loss of its own."""
    return {"input_ids": integers(ROWS, POSITIONS)}


def masked(positions: int = POSITIONS) -> Callable[[], Batch]:
    """Tokens with padding at the end of the second row."""

    def batch() -> Batch:
        ids = integers(ROWS, positions)
        mask = torch.ones_like(ids)
        mask[1, -4:] = 0
        return {"input_ids": ids, "attention_mask": mask, "labels": ids.clone()}

    return batch


def translation() -> Batch:
    """Of an encoder and a decoder."""
    return {"input_ids": integers(ROWS, POSITIONS), "labels": integers(ROWS, POSITIONS - 4)}


def pixels(size: int = IMAGE, channels: int = 3) -> Callable[[], Batch]:
    """Images with a class each."""

    def batch() -> Batch:
        images = torch.randn(ROWS, channels, size, size)
        return {"pixel_values": images, "labels": torch.tensor([0, 1])}

    return batch


def images(size: int = IMAGE) -> Callable[[], Batch]:
    """Images alone."""
    return lambda: {"pixel_values": torch.randn(ROWS, 3, size, size)}


def video() -> dict[str, Any]:
    """Clips of four frames."""
    return {"pixel_values": torch.randn(ROWS, 4, 3, IMAGE, IMAGE)}


def wave() -> Batch:
    """Sound, with text to recognize."""
    return {"input_values": torch.randn(ROWS, 800), "labels": integers(ROWS, 4, high=32)}


def waves() -> Batch:
    """Sound alone."""
    return {"input_values": torch.randn(ROWS, 800)}


def spectrum() -> Batch:
    """A spectrogram, bins first, with text to write."""
    return {
        "input_features": torch.randn(ROWS, MELS, FRAMES),
        "labels": integers(ROWS, POSITIONS),
    }


def filterbank() -> Batch:
    """A spectrogram, time first, with text to write."""
    return {
        "input_features": torch.randn(ROWS, FRAMES, MELS),
        "labels": integers(ROWS, POSITIONS),
    }


def features() -> dict[str, Any]:
    """A spectrogram alone."""
    return {"input_features": torch.randn(ROWS, FRAMES, MELS)}


def pairs() -> Batch:
    """Images with a caption each, to be matched."""
    return {
        "input_ids": integers(ROWS, 16),
        "pixel_values": torch.randn(ROWS, 3, IMAGE, IMAGE),
        "return_loss": True,
    }


def series() -> Batch:
    """A time series with its past and its future."""
    past, future = 20, 8
    return {
        "past_values": torch.randn(ROWS, past),
        "past_time_features": torch.randn(ROWS, past, 1),
        "past_observed_mask": torch.ones(ROWS, past),
        "future_values": torch.randn(ROWS, future),
        "future_time_features": torch.randn(ROWS, future, 1),
    }


def sequence() -> Batch:
    """Vectors, for models of plain torch."""
    return (torch.randn(ROWS, POSITIONS, WIDTH),)
