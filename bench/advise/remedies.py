"""What else than checkpointing lowers the peak, each tried alone on one step.

Flash attention, gradient release and bf16 are traced. Storages that another program would make
smaller are: an 8-bit optimizer's state, a loss in chunks, and what is sharded keep their births and
deaths, and get the size that they would have.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from bench.advise.facts import Remedy
from bench.advise.workbench import Workbench, peak_bytes_of
from bench.cells.optimizers import BLOCK, EIGHT_BIT, LEAST, eight_bit_bytes
from bench.cells.training import PURE
from bench.report.display import sized
from bench.simulate.peak import peak_event
from bench.simulate.resized import resized
from bench.simulate.run import Simulation
from bench.simulate.trace import FORWARD, OPTIMIZER, Life, Trace
from strategies import Unsupported
from strategies.execution.trial import update_alone
from strategies.flash_checkpoint import FlashCheckpoint

WORTH = 0.01
"""Of the peak: what saves less is said not to help."""
CHUNKS = 8
RANKS = (2, 4, 8)
LOSS, SOFTMAX = "logits and loss", "_log_softmax"
FUSED, ALREADY = "scaled_dot_product", "attention is fused already"
SHARDED = ("parameters", "gradients", "optimizer state")


@dataclasses.dataclass(frozen=True)
class Base:
    """The step that remedies are tried on.

    Attributes:
        bench: where.
        spec: of the strategy that the step is under.
        simulation: of it.
    """

    bench: Workbench
    spec: str
    simulation: Simulation

    @property
    def trace(self) -> Trace:
        """The step."""
        return self.simulation.trace

    @property
    def peak_bytes(self) -> int:
        """Of the step."""
        return peak_bytes_of(self.trace)

    def remedy(self, name: str, how: str, trace: Trace) -> Remedy:
        """What a step with the remedy says of it."""
        peak_bytes = peak_bytes_of(trace)
        saved_bytes = self.peak_bytes - peak_bytes
        helps = saved_bytes >= WORTH * self.peak_bytes
        why = how if helps else f"{how}; {_elsewhere(trace)}"
        fits = not self.bench.missing_bytes(trace)
        return Remedy(name, why, peak_bytes, saved_bytes, fits, helps)


def _elsewhere(trace: Trace) -> str:
    index = peak_event(trace)
    event, parts = trace.events[index], trace.by_category(index)
    largest = max(parts, key=parts.__getitem__)
    where = event.module or "the model"
    return f"the peak then is in {event.phase} of {where}, and mostly {largest}"


def _cannot(name: str, why: str) -> Remedy:
    return Remedy(name, why, None, 0, fits=False, helps=False)


def remedies(base: Base) -> tuple[Remedy, ...]:
    """All of them, that which saves most first."""
    singles = [remedy(base) for remedy in (_flash, _chunked, _released, _fused, _eight_bits)]
    every = [*singles, *_in_half(base), *_sharded(base)]
    return tuple(sorted(every, key=lambda one: -one.saved_bytes))


def _flash(base: Base) -> Remedy:
    name, how = "flash attention", "no matrix of scores is kept"
    fused = any(FUSED in operator.name for operator in base.trace.work)
    if fused and FlashCheckpoint().is_switched(base.bench.step.model):
        return _cannot(name, ALREADY)
    try:
        traced = base.bench.simulate(f"flash_checkpoint(over={base.spec})").trace
    except Unsupported as error:
        return _cannot(name, ALREADY if fused else str(error).partition(": ")[2])
    same = fused and peak_bytes_of(traced) == base.peak_bytes
    return _cannot(name, ALREADY) if same else base.remedy(name, how, traced)


def _chunked(base: Base) -> Remedy:
    name = f"loss in {CHUNKS} chunks"
    logits_bytes = max(_log_softmaxes(base.trace), default=0)
    if not logits_bytes:
        return _cannot(name, "no loss over classes is seen after the last block")
    wide = {2 * logits_bytes, logits_bytes, logits_bytes // 2}  # in another floating-point format

    def size_bytes(life: Life) -> int:
        chunked = life.category == LOSS and life.size_bytes in wide
        return -(-life.size_bytes // CHUNKS) if chunked else life.size_bytes

    how = f"logits take {sized(logits_bytes)}, and so does each copy and gradient of them"
    return base.remedy(name, how, resized(base.trace, size_bytes))


def _log_softmaxes(trace: Trace) -> Iterator[int]:
    for life in trace.lives:
        if life.operator == SOFTMAX and (life.category, life.phase) == (LOSS, FORWARD):
            yield life.size_bytes


def _released(base: Base) -> Remedy:
    name = "gradient release"
    step = base.bench.step
    if step.update_rule is None:
        return _cannot(name, "it needs an optimizer, and none is named")
    if step.scaler is not None or step.masters is not None:
        return _cannot(name, f"{step.precision} needs all gradients together")
    with _releasing(step.update_rule):
        trace = base.bench.simulate(base.spec).trace
    return base.remedy(name, "each parameter is updated in backward, and its gradient freed", trace)


@contextlib.contextmanager
def _releasing(rule: torch.optim.Optimizer) -> Iterator[None]:
    """As `strategies.release_gradients`, which tries an optimizer first: fakes have no values."""

    def update(group: int, parameter: Tensor) -> None:
        update_alone(rule, group, parameter)
        parameter.grad = None

    handles = [
        parameter.register_post_accumulate_grad_hook(functools.partial(update, number))
        for number, group in enumerate(rule.param_groups)
        for parameter in group["params"]
        if parameter.requires_grad
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fused(base: Base) -> Remedy:
    name = "fused optimizer"
    if base.bench.step.update_rule is None:
        return _cannot(name, "there is no optimizer")
    how = "the update of all parameters in one kernel (fused=True) needs no temporaries"
    return base.remedy(name, how, resized(base.trace, _without_temporaries))


def _without_temporaries(life: Life) -> int:
    """What the update works with goes; its gradients and states are not its own."""
    return 0 if _is_of_the_update(life) else life.size_bytes


def _is_of_the_update(life: Life) -> bool:
    return life.phase == OPTIMIZER and life.category == "temporaries"


def _eight_bits(base: Base) -> Remedy:
    name = "8-bit optimizer"
    step = base.bench.step
    states = [tensor for tensor in step.optimizer_tensors() if tensor.dim()]
    if not states:
        return _cannot(name, "there is no state of an optimizer")
    if step.optimizer.endswith(EIGHT_BIT) or step.masters is not None:
        return _cannot(name, f"the optimizer is {step.optimizer} with {step.precision}")
    values = {state.numel() * state.element_size(): state.numel() for state in states}

    def size_bytes(life: Life) -> int:
        held = life.category == "optimizer state"
        return _eight_bit_bytes(life, values) if held else _without_temporaries(life)

    how = f"8 bits a value, one fp32 scale for {BLOCK} of them, updated in one kernel"
    return base.remedy(name, how, resized(base.trace, size_bytes))


def _eight_bit_bytes(life: Life, values: Mapping[int, int]) -> int:
    count = values.get(life.size_bytes, 0)
    return life.size_bytes if count < LEAST else eight_bit_bytes(count)


def _in_half(base: Base) -> Iterator[Remedy]:
    how = {
        "bf16": "weights, gradients, states and activations of two bytes",
        "bf16-autocast": "activations of two bytes; weights, gradients and states stay fp32",
    }
    dtypes = {p.dtype for p in base.bench.step.model.parameters() if p.is_floating_point()}
    if base.bench.cell.precision != "fp32" or dtypes <= set(PURE.values()):
        yield _cannot("bf16", "the model computes in half precision already")
        return
    for precision, why in how.items():
        try:
            trace = base.bench.varied(precision=precision).simulate(base.spec).trace
        except Unsupported as error:
            yield _cannot(precision, str(error))
        else:
            yield base.remedy(precision, why, trace)


def _sharded(base: Base) -> Iterator[Remedy]:
    """Fully sharded data parallel, as FSDP2: at most two blocks are gathered, and one's gradients.

    What is in no block is gathered from the first forward to the end of backward.
    """
    gathered_bytes = _gathered_bytes(base)
    for ranks in RANKS:
        trace = resized(base.trace, _shards(base.trace, ranks, gathered_bytes))
        how = (
            f"parameters, gradients and optimizer state by {ranks}, and {sized(gathered_bytes)}"
            " gathered at a time"
        )
        yield base.remedy(f"sharding over {ranks} ranks", how, trace)


def _gathered_bytes(base: Base) -> int:
    """Parameters of two blocks and gradients of one, and both of all that is in none."""
    chain, model = base.simulation.prepared.chain, base.bench.step.model
    of_block = [
        {p: p.numel() * p.element_size() for p in block.parameters()} for block in chain.blocks
    ]
    inside = {p for block in of_block for p in block}
    root_bytes = sum(p.numel() * p.element_size() for p in set(model.parameters()) - inside)
    blocks = sorted((sum(block.values()) for block in of_block), reverse=True)
    return 2 * root_bytes + sum(blocks[:2]) + sum(blocks[:1])


def _shards(trace: Trace, ranks: int, gathered_bytes: int) -> Callable[[Life], int]:
    first = next(life for life in trace.lives if life.category == "parameters")

    def size_bytes(life: Life) -> int:
        if life.category not in SHARDED and not _is_of_the_update(life):
            return life.size_bytes
        # One that lives throughout stands for what is gathered as well.
        return -(-life.size_bytes // ranks) + (gathered_bytes if life is first else 0)

    return size_bytes
