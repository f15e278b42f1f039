"""Where checkpointing starts to pay: steps with and without it, simulated, model by model.

Two rows of cells a device, each with and without: models from thirty million parameters up, at as
many tokens a step as a device is usually given; and one model at longer and longer sequences. Two
more in fp32 tell what autocast saves.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.cells.cell import Cell, checked

Size = tuple[int, int, int]

LONG: dict[str, Size] = {"sim:h100-80gb": (48, 1600, 25), "sim:rtx4090-24gb": (24, 1024, 16)}
"""Devices, and the model whose sequences grow there: the largest that leaves room for some."""
SPECS = ("none", "every_layer")
WORKLOAD = "gpt2-xl"
TOKENS = 2048
BATCH = 8
SIZES = (
    (6, 384, 6),
    (12, 512, 8),
    (12, 768, 12),
    (24, 1024, 16),
    (36, 1280, 20),
    (48, 1600, 25),
    (32, 2560, 32),
    (32, 4096, 32),
)
"""Layers, width and heads of GPT-2 and GPT-3 models: 30 million to 6.7 billion parameters."""
SEQUENCES = (512, 1024, 2048, 4096, 8192, 16384, 32768)
IN_FP32: Size = (24, 1024, 16)


def cells() -> list[Cell]:
    """All of them, checked, each once."""
    return list({cell.cell_id(): cell for cell in map(checked, _cells())}.values())


def _cells() -> Iterator[Cell]:
    for device, long in LONG.items():
        for size in SIZES:
            yield from _both(device, _options(size, TOKENS, BATCH))
        for seq in SEQUENCES:
            yield from _both(device, _options(long, seq, 1))
    yield from _both(next(iter(LONG)), _options(IN_FP32, TOKENS, BATCH), "fp32")


def _options(size: Size, seq: int, batch: int) -> dict[str, Any]:
    layers, dim, heads = size
    shape = {"layers": layers, "dim": dim, "heads": heads, "seq": seq, "batch": batch}
    return {**shape, "positions": max(seq, 1024), "attention": "flash"}


def _both(device: str, options: dict[str, Any], precision: str = "bf16-autocast") -> Iterator[Cell]:
    for spec in SPECS:
        yield Cell(
            workload=WORKLOAD,
            options=options,
            spec=spec,
            device=device,
            precision=precision,
            optimizer="adamw",
        )
