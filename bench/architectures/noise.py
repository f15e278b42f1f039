"""What models of the diffusers library are called with: noise, moments, prompts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.architectures.base import ROWS, WIDTH, integers

CHANNELS = 4
SIDE = 16
TEXT = 8
FRAMES = 3


def moment() -> Tensor:
    """When it is."""
    return torch.tensor([3] * ROWS)


def prompt(width: int = WIDTH) -> Tensor:
    """What text becomes."""
    return torch.randn(ROWS, TEXT, width)


def noisy(name: str = "hidden_states", frames: int = 0) -> dict[str, Any]:
    """A noisy image, or some, and when it is."""
    shape = (frames, SIDE // 2, SIDE // 2) if frames else (SIDE, SIDE)
    return {name: torch.randn(ROWS, CHANNELS, *shape), "timestep": moment()}


def described(name: str = "hidden_states", frames: int = 0) -> dict[str, Any]:
    """With a text."""
    return {**noisy(name, frames), "encoder_hidden_states": prompt()}


def pooled() -> dict[str, Any]:
    """With a text, which is summarized too."""
    return {**described(), "pooled_projections": torch.randn(ROWS, WIDTH)}


def labelled() -> dict[str, Any]:
    """With a class."""
    return {**noisy(), "class_labels": integers(ROWS, low=0, high=3)}


def captioned() -> dict[str, Any]:
    """With a text and its mask."""
    mask = torch.ones(ROWS, TEXT, dtype=torch.long)
    mask[1, -3:] = 0
    return {**described(), "encoder_attention_mask": mask}


def resized() -> dict[str, Any]:
    """With a text, and no size of the image."""
    return {**described(), "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}


def controlled() -> dict[str, Any]:
    """With a text, and an image that tells where things are."""
    hint = torch.randn(ROWS, 3, 8 * SIDE, 8 * SIDE)
    return {**described("sample"), "controlnet_cond": hint}


def packed(image: int = 16) -> dict[str, Any]:
    """Tokens of an image and of a text."""
    return {
        "hidden_states": torch.randn(ROWS, image, CHANNELS),
        "encoder_hidden_states": prompt(),
        "timestep": torch.rand(ROWS),
    }


def placed() -> dict[str, Any]:
    """Tokens, and where each is."""
    return {**packed(), "img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(TEXT, 3)}


def flux() -> dict[str, Any]:
    """Tokens, where each is, and a summary."""
    return {**placed(), "pooled_projections": torch.randn(ROWS, WIDTH)}


def qwen() -> dict[str, Any]:
    """Tokens, and the sizes of the image."""
    return {**packed(), "img_shapes": [[(1, 4, 4)]] * ROWS}


def ltx() -> dict[str, Any]:
    """Tokens of a film, its size, and a mask of the text."""
    mask = torch.ones(ROWS, TEXT)
    return {**packed(), "encoder_attention_mask": mask, "num_frames": 1, "height": 4, "width": 4}


def image() -> dict[str, Any]:
    """An image to code and decode."""
    return {"sample": torch.randn(ROWS, 3, 2 * SIDE, 2 * SIDE)}


def film() -> dict[str, Any]:
    """Frames to code and decode."""
    return {"sample": torch.randn(1, 3, 5, SIDE, SIDE)}


def sound() -> dict[str, Any]:
    """A wave to code and decode."""
    return {"sample": torch.randn(ROWS, 1, 256)}
