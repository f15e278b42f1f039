"""The models of Korthikanti et al. 2022 (arXiv 2205.05198, table 3).

Their block is GPT's with dropout 0.1, for which the paper gives the bytes that 16-bit training
keeps: s·b·h·(34 + 5·a·s/h) a layer. Sequence 2048 and vocabulary 51,200 throughout.
"""

from __future__ import annotations

from bench.workloads.base import Workload
from bench.workloads.gpt import GptWorkload


def _model(*, name: str, layers: int, dim: int, heads: int, batch: int) -> GptWorkload:
    return GptWorkload(
        name=name,
        summary=f"GPT {name.partition('-')[2].upper()} with dropout, as in arXiv 2205.05198",
        scale="large",
        layers=layers,
        dim=dim,
        heads=heads,
        seq=2048,
        positions=2048,
        batch=batch,
        vocab=51200,
        dropout=0.1,
    )


WORKLOADS: tuple[Workload, ...] = (
    _model(name="korthikanti-22b", layers=48, dim=6144, heads=64, batch=4),
    _model(name="korthikanti-175b", layers=96, dim=12288, heads=96, batch=1),
    _model(name="korthikanti-530b", layers=105, dim=20480, heads=128, batch=1),
    _model(name="korthikanti-1t", layers=128, dim=25600, heads=160, batch=1),
)
