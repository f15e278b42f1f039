"""Is `auto` ever slower than anyone else within the same budget?

Budgets are those of `bench.studies.promises`, some of the ten; who is there is in
`bench.studies.entrants`. Runs in this process; `bench.run.executor` gives it one of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import torch

import strategies
from bench import devices
from bench.cells import machine, sources
from bench.store.contests import SCHEMA_VERSION, Contest, encode
from bench.studies import entrants, subjects
from bench.studies.corner import UPDATES
from bench.studies.ring import WARMUP, CompiledRing, Question, Ring, Tell
from strategies.execution.errors import Unsupported


class Order(msgspec.Struct, frozen=True):
    """A question for another process, and the file that lines on what has been done go to."""

    question: Question
    progress: str


def work(payload: bytes) -> bytes:
    """The contest that an `Order` asks for, both as JSON."""
    order, started = msgspec.json.decode(payload, type=Order), time.perf_counter()
    with Path(order.progress).open("a", encoding="utf-8", buffering=1) as file:

        def tell(text: str) -> None:
            line, _, _ = text.partition("\n")
            took_s = time.perf_counter() - started
            file.write(f"{order.question.model}, {took_s:.0f} s: {line}\n")

        return encode(contest(order.question, tell))


def contest(question: Question, tell: Tell = lambda _: None) -> Contest:
    """Hold one contest; that the model cannot be planned for is an answer.

    Args:
        question: what to contest.
        tell: is told what has been done.

    Raises:
        ValueError: there is no such model.
    """
    started, empty = time.perf_counter(), blank(question)
    with _own_kernels(empty.key) if question.compiled else contextlib.nullcontext():
        ring = CompiledRing if question.compiled else Ring
        try:
            fields = ring(question, tell).fields()
        except Unsupported as error:
            return msgspec.structs.replace(empty, problem=str(error))
    duration_s = round(time.perf_counter() - started, 3)
    return msgspec.structs.replace(empty, **fields, duration_s=duration_s)


def _own_kernels(key: str) -> contextlib.AbstractContextManager[Any]:
    """Nothing that others have compiled is run; what this contest had before it was ended, is.

    Whoever compiled it may have found no vector instructions, which PyTorch's cache is not told:
    such kernels were seen to take half as long again as those that it makes now.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir  # noqa: PLC0415 - a compiler

    folder = Path(cache_dir()) / "contests" / key
    return mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=str(folder))


def blank(question: Question, problem: str = "") -> Contest:
    """A contest of which nothing is known, but for what ended it."""
    library = subjects.library_of(question.model)
    version = importlib.metadata.version(library) if find_spec(library) else None
    return Contest(
        **machine.provenance(SCHEMA_VERSION, question.seed),
        key=_key(question, version),
        model=question.model,
        library=library,
        library_version=version,
        device=question.device,
        device_name=devices.describe(torch.device(question.device)),
        compiled=question.compiled,
        accumulation=question.accumulation,
        optimizer="adamw",
        problem=problem,
        updates=UPDATES,
        warmup=WARMUP,
        interval_width=question.interval_width,
        rounds_limit_s=question.rounds_limit_s,
        threads=torch.get_num_threads(),
    )


def _key(question: Question, version: str | None) -> str:
    """Whatever decides the answer, in twelve hex digits: code and versions, too."""
    present = [entrants.OURS, *entrants.WITH_BUDGET, "every_k", *entrants.RULES, "memory_budget"]
    modules = [name for spec in present for name in sources.modules_of(strategies.get(spec))]
    code = sources.hash_of([__name__, *modules])
    facts = [code, str(torch.__version__), str(version), torch.get_num_threads()]
    return hashlib.sha256(msgspec.json.encode([question, facts])).hexdigest()[:12]
