"""One real architecture under the strategies: is its training the same, and what does it need?

Two training steps from the same seed under each strategy are held against those of the model as it
is: losses, gradients, buffers and random states, to the bit. A third step runs under a ledger of
tensors. Runs in this process; `bench.run.executor` gives it one of its own.
"""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import strategies
from bench.architectures import Architecture, Batch, get
from bench.cells import machine
from bench.measure import generators, gradients
from bench.measure.gradients import Outcome as Trained
from bench.store.models import OWN, SCHEMA_VERSION, Outcome, Study, Verdict, encode
from strategies.profiling.ledger import Ledger

SPECS = ("none", "every_layer", "every_k(k=3)", "sqrt", "recursive", "offload")
STEPS = 2
RATE = 1e-3
PEAKS = frozenset({"every_layer", OWN})
"""Under these the peak of tensors is measured too: a step under a ledger takes long."""

Change = Callable[[nn.Module], object]
Ran = tuple[Trained, int | None]


def work(payload: bytes) -> bytes:
    """The study of a model, by name, as JSON."""
    return encode(study(payload.decode()))


def study(name: str, seed: int = 0) -> Study:
    """Study one architecture; whatever happens is a study.

    Args:
        name: see `bench.architectures.CATALOGUE`.
        seed: of parameters, data and steps.

    Raises:
        ValueError: no such architecture.
    """
    architecture, empty, started = get(name), blank(name, seed), time.perf_counter()
    if not architecture.installed:
        return empty
    torch.set_num_threads(1)
    try:
        study = _study(empty, _Bench(architecture, seed))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this model's result
        return msgspec.structs.replace(empty, problem=_sentence(error))
    return msgspec.structs.replace(study, duration_s=round(time.perf_counter() - started, 3))


def blank(name: str, seed: int = 0, problem: str = "") -> Study:
    """A study of which nothing is known, but for what ended it."""
    architecture = get(name)
    return Study(
        **machine.provenance(SCHEMA_VERSION, seed),
        model=name,
        library=architecture.library,
        library_version=_version(architecture),
        problem=problem,
    )


def _version(architecture: Architecture) -> str | None:
    return importlib.metadata.version(architecture.library) if architecture.installed else None


def _study(empty: Study, bench: _Bench) -> Study:
    plain, peak_bytes = bench.run(lambda _: None)
    if not plain.loss.isfinite().all():
        return msgspec.structs.replace(
            empty, problem="the loss of the model as it is, is not finite"
        )
    model, _ = bench.build()
    changes = {spec: functools.partial(strategies.apply, strategy=spec) for spec in SPECS}
    outcomes = [bench.outcome(spec, change, plain) for spec, change in changes.items()]
    return msgspec.structs.replace(
        empty,
        **_structure(model),
        parameter_count=sum(p.numel() for p in model.parameters()),
        resident_bytes=bench.resident_bytes,
        plain_peak_bytes=peak_bytes,
        outcomes=[*outcomes, bench.outcome(OWN, own_checkpointing, plain)],
    )


def _structure(model: nn.Module) -> dict[str, Any]:
    """The blocks that are found, if any are."""
    try:
        chain = strategies.prepare(model, "every_layer").chain
    except strategies.Unsupported:
        return {}
    return {
        "block_count": len(chain),
        "towers": list(chain.paths),
        "left_out": list(chain.left_out),
    }


def own_checkpointing(model: nn.Module) -> None:
    """Turn on what the model's library has.

    Raises:
        strategies.Unsupported: it has nothing, for this model.
    """
    switches = {
        "gradient_checkpointing_enable": ({"use_reentrant": False},),
        "enable_gradient_checkpointing": (),
        "set_grad_checkpointing": (),
    }
    for name, arguments in switches.items():
        if hasattr(model, name):
            try:
                getattr(model, name)(*arguments)
            except ValueError as error:
                raise strategies.Unsupported(str(error)) from error
            return
    raise strategies.Unsupported("the library has none")


class _Bench:
    """Builds an architecture anew for each strategy, from one seed."""

    def __init__(self, architecture: Architecture, seed: int) -> None:
        self.architecture, self.seed = architecture, seed
        self.resident_bytes = 0

    def build(self) -> tuple[nn.Module, Batch]:
        """The model without caches, and its batch."""
        generators.seed_all(self.seed)
        model, batch = self.architecture.build()
        return without_caches(model), batch

    def run(self, change: Change, *, watched: bool = True) -> Ran:
        """Training steps of the model after a change, and the peak of tensors in one more."""
        model, batch = self.build()
        change(model)
        trained = train(model, batch, self.seed)
        gc.collect()
        return trained, self._peak_bytes(model, batch) if watched else None

    def _peak_bytes(self, model: nn.Module, batch: Batch) -> int:
        generators.seed_all(self.seed)
        ledger = Ledger()
        ledger.adopt([*model.parameters(), *model.buffers(), *_tensors(batch)])
        with ledger:
            start = ledger.mark("start")
            loss_of(call(model, batch)).backward()
        self.resident_bytes = start.alive_bytes
        return ledger.peak_bytes(start)

    def outcome(self, spec: str, change: Change, plain: Trained) -> Outcome:
        """What became of the model under one strategy."""
        try:
            trained, peak_bytes = self.run(change, watched=spec in PEAKS)
        except strategies.Unsupported as error:
            return Outcome(spec=spec, verdict="refused", reason=_first(str(error)))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the outcome
            return Outcome(spec=spec, verdict="error", reason=_sentence(error))
        problem = difference(plain, trained)
        verdict: Verdict = "WRONG" if problem else "bitwise"
        return Outcome(spec=spec, verdict=verdict, reason=problem or "", peak_bytes=peak_bytes)


def without_caches(model: nn.Module) -> nn.Module:
    """The model, its caches turned off: to turn them off changes last bits by itself."""
    for config in filter(None, (getattr(each, "config", None) for each in model.modules())):
        if getattr(config, "use_cache", None) is True:
            config.use_cache = False
    return model


def train(model: nn.Module, batch: Batch, seed: int) -> Trained:
    """Two training steps; the model keeps no gradients."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    losses: list[Tensor] = []
    grads: dict[str, Tensor | None] = {}
    generators.seed_all(seed)
    for number in range(STEPS):
        loss = loss_of(call(model, batch))
        loss.backward()
        losses.append(loss.detach())
        grads |= {f"{n} in step {number}": p.grad for n, p in model.named_parameters()}
        optimizer.step()
        optimizer.zero_grad()
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    return Trained(torch.stack(losses), grads, buffers, generators.states())


def difference(plain: Trained, trained: Trained) -> str | None:
    """What differs, in a sentence; a gradient where there was none does, too."""
    extra = [
        n for n, g in plain.gradients.items() if g is None and trained.gradients[n] is not None
    ]
    if extra:
        return f"a gradient where there is none: {', '.join(extra)}"
    return gradients.compare(plain, trained).problem(exact=True)


def call(model: nn.Module, batch: Batch) -> Any:
    """The model's output on its batch."""
    return model(**batch) if isinstance(batch, Mapping) else model(*batch)


def loss_of(output: Any) -> Tensor:
    """The output's own loss; of an output without one, the mean squares of its tensors."""
    own = getattr(output, "loss", None)
    if own is not None:
        assert isinstance(own, Tensor)
        return own.sum()
    parts = [leaf.square().mean() for leaf in _tensors(output) if leaf.requires_grad]
    return torch.stack(parts).sum()


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {_first(str(error))}"


def _first(text: str) -> str:
    """The first sentence."""
    return " ".join(text.split()).partition(". ")[0].rstrip(".")
