"""What blocks cost compiled: bytes by the device's allocator, time against that of the eager block.

Compiled kernels do not pass PyTorch's dispatcher, so that no ledger sees what they make. What they
take longer or shorter than the eager block is measured, and their time is that share of the eager
block's in the profile, whose clock stays one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from strategies.execution import compiled_blocks, compiler, layout
from strategies.execution.chain import Chain
from strategies.execution.errors import in_a_line
from strategies.execution.stand_in import COMPILED, StandIn
from strategies.execution.undo import Undo, installed
from strategies.profiling.allocator import SEEN, AllocatorTrace
from strategies.profiling.block_times import Ratio, TimedForward
from strategies.profiling.kinds import kinds_of
from strategies.profiling.ledger import Ledger
from strategies.profiling.oom import is_out_of_memory
from strategies.profiling.saved import Kept, watch_saved
from strategies.profiling.scout import Alike, each
from strategies.profiling.step import Step
from strategies.profiling.variants import Variant, lean, with_variants
from strategies.profiling.watched import Watched, after, watch_step
from strategies.schedules.modes import PARTITIONED, Compilation, Mode
from strategies.schedules.plan import Node
from strategies.schedules.profile import ChainProfile
from strategies.schedules.schedule import ALL, runs_again


def is_compiled(block: nn.Module) -> bool:
    """Whether it was compiled before: ``block.compile()``, or ``torch.compile(block)``."""
    return block.__dict__.get(COMPILED) is not None or hasattr(block, "_orig_mod")


@contextlib.contextmanager
def eagerly(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Blocks that were compiled before run as if they were not."""
    if not any(map(is_compiled, blocks)):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def is_fake(step: Step) -> bool:
    """Whether it runs on fake tensors."""
    return any(isinstance(tensor, FakeTensor) for tensor in step.resident_tensors())


def seen_on(step: Step) -> str | None:
    """The kind of device, if it is real and its allocator can be watched."""
    return step.device.type if step.device.type in SEEN and not is_fake(step) else None


def hindrance(names: Sequence[str], step: Step, chain: Chain) -> str | None:
    """Why no block can run compiled under a budget here, or ``None``."""
    before = any(map(is_compiled, chain.blocks))
    if before or chain.repeats:
        return f"the blocks {'are compiled already' if before else 'run several times'}"
    if is_fake(step):
        return "what a compiler makes is not seen on fake tensors"
    if step.device.type not in SEEN:
        return f"what compiled blocks need is not seen on {step.device.type}"
    if not compiler.can_be_watched():
        return "this PyTorch has no joint_custom_pass, to find wrong gradients by"
    if all(name.startswith(PARTITIONED) for name in names):
        return None
    return compiler.missing_compiler(step.device)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What was measured.

    Attributes:
        variants: of each block that was watched, its ways to run compiled.
        refused: why others do not run, by mode.
    """

    variants: Mapping[int, Sequence[Variant]]
    refused: Mapping[str, str]


def with_compiled(
    profile: ChainProfile, step: Step, chain: Chain, alike: Alike, names: Sequence[str]
) -> ChainProfile:
    """The profile with compiled modes, or with the blocks as they were compiled before.

    Args:
        profile: of the blocks as if nothing were compiled.
        step: as in `strategies.profiling.profiler.profile_chain`.
        chain: the blocks.
        alike: which of them are watched for which.
        names: of the modes.
    """
    before = any(map(is_compiled, chain.blocks))
    reasons = {hindrance(names, step, chain)} - {None} if names else set()
    left_out = [f"no block is compiled: {reason}" for reason in reasons]
    if not (before and seen_on(step)) and (reasons or not names):
        return dataclasses.replace(profile, left_out=tuple(left_out))
    measured = watch_compiled(step, chain, alike, () if before else names)
    left_out += _by_reason(measured.refused)
    variants = [measured.variants[index] for index in (range(len(chain)) if before else alike.like)]
    blocks = tuple(map(with_variants, profile.blocks, variants))
    profile = dataclasses.replace(profile, left_out=tuple(left_out))
    if before or blocks == profile.blocks:
        return dataclasses.replace(profile, blocks=blocks)
    leanest = tuple(map(lean, profile.blocks, variants))
    return dataclasses.replace(
        profile,
        blocks=blocks,
        eager_blocks=profile.blocks,
        lean_blocks=() if leanest == blocks else leanest,
    )


def _by_reason(refused: Mapping[str, str]) -> list[str]:
    """Why modes do not run, each reason said once."""
    names: dict[str, list[str]] = {}
    for name, why in refused.items():
        names.setdefault(why.removeprefix(f"{name}: "), []).append(name)
    return [f"{' and '.join(those)}: {why}" for why, those in names.items()]


def watch_compiled(step: Step, chain: Chain, alike: Alike, names: Sequence[str]) -> Compiled:
    """Measure blocks in compiled modes; each kind of block is compiled once for each mode.

    Args:
        step: on a real device whose allocator is seen.
        chain: the blocks.
        alike: which of them are watched.
        names: of the modes; none, where blocks were compiled before: then mode ``all`` is measured.
    """
    first = not names and any(map(is_compiled, chain.blocks))
    watching = _Watching(step, chain, each(chain) if first else alike)
    with compiler.for_these_shapes():
        timed = watching.timed({ALL: None} if first else {n: Compilation.parse(n) for n in names})
        refused = {name: why for each in timed.values() for name, why in each.refused.items()}
        variants: dict[int, list[Variant]] = {index: [] for index in timed}
        for name in (ALL,) if first else (name for name in names if name not in refused):
            with contextlib.nullcontext() if first else _refused(name, refused):
                for index, variant in watching.variants(name, timed).items():
                    variants[index].append(variant)
    return Compiled(variants, refused)


@contextlib.contextmanager
def _refused(name: str, refused: dict[str, str]) -> Iterator[None]:
    """A mode whose code fails, as what a compiler makes may in any way, is none; it is said why.

    So is one that computes something else when it runs again.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise
        refused[name] = in_a_line(error)


@dataclasses.dataclass(frozen=True)
class _Watching:
    step: Step
    chain: Chain
    alike: Alike

    @property
    def indices(self) -> Sequence[int]:
        """The blocks that are measured."""
        return self.alike.watched

    def timed(self, compilations: Mapping[str, Compilation | None]) -> dict[int, TimedForward]:
        """Measure times, of each kind of block once."""
        kinds = [kind.key for kind in kinds_of(self.chain, self.step.model)]
        first = {kinds[index]: index for index in reversed(self.indices)}
        timed = {index: self._timed(index, compilations) for index in first.values()}
        with self._installed(lambda: [stand_in.install() for stand_in in timed.values()]):
            self.step.forward()
        return {index: timed[first[kinds[index]]] for index in self.indices}

    def _timed(self, index: int, compilations: Mapping[str, Compilation | None]) -> TimedForward:
        block = self.chain.blocks[index]
        entry = StandIn.outermost(block)
        before = StandIn(block, entry)
        ways = {
            name: before if each is None else compiled_blocks.CompiledForward(block, each)
            for name, each in compilations.items()
        }
        return TimedForward(block, _Eager(before), ways, entry)

    @contextlib.contextmanager
    def _installed(self, inner: Callable[[], Sequence[Undo]]) -> Iterator[None]:
        """Some stand-ins, and around them what passes by the blocks that are not watched."""
        passing = functools.partial(self.alike.install, self.chain, whole=False)
        with installed(inner), installed(passing):
            yield

    def variants(self, name: str, timed: Mapping[int, TimedForward]) -> dict[int, Variant]:
        """Of every block in one mode."""
        names = dict.fromkeys(self.indices, name)
        with self._installed(lambda: compiled_blocks.install(self.chain, names)):
            saved, plain = watch_saved(self.step, self.chain), self._watch()
        steps = (plain, self._grouped(names) if runs_again(name) else [])
        return {
            index: _variant(name, index, saved.blocks[index], steps, timed[index].ratios[name])
            for index in self.indices
        }

    def _grouped(self, names: Mapping[int, str]) -> list[Watched]:
        """With each block in a group of its own, under a checkpoint, and in frames.

        A block that was compiled before is compiled anew with its checkpoint, but not with frames,
        which hold groups of several blocks. Others are compiled inside both.
        """
        groups: list[Callable[[int], Node]] = [lambda i: (i,)]
        if ALL in names.values():
            groups.append(lambda i: ((i,),))
        return [self._in_groups(names, group) for group in groups]

    def _in_groups(self, names: Mapping[int, str], group: Callable[[int], Node]) -> Watched:
        plan = tuple(group(i) if i in names else i for i in range(len(self.chain)))
        with (
            self._installed(lambda: compiled_blocks.install(self.chain, names)),
            installed(lambda: layout.install(self.chain, plan)),
        ):
            self.step.backward(self.step.forward())  # nothing is compiled while it is watched
            return self._watch()

    def _watch(self) -> Watched:
        return watch_step(self.step, self.chain, Ledger(), AllocatorTrace(self.step.device.type))


class _Eager:
    """A block as it is, even if it was compiled before."""

    def __init__(self, block: StandIn) -> None:
        self.block = block

    def __call__(self, *args: object, **kwargs: object) -> object:
        with eagerly([self.block.module]):
            return self.block(*args, **kwargs)


def _variant(
    name: str, index: int, kept: Kept, steps: tuple[Watched, Sequence[Watched]], ratio: Ratio
) -> Variant:
    plain, grouped = steps
    trace = plain.allocator
    enter, leave = f"enter {index}", f"leave {index}"
    begin, end = f"backward {index}", after(index)
    assert trace is not None
    forward_bytes = trace.working_bytes(enter, leave)
    gained_bytes = trace.gained_bytes(enter, leave) - kept.output_bytes
    again = [watched.allocator for watched in grouped if watched.allocator]
    unsaved = [forward_bytes, *(each.working_bytes(enter, leave) for each in again)]
    # In frames, the random state of now is taken before the block's own moments.
    repeated = [
        each.working_bytes(begin, end) + plain.group_bytes * frames
        for frames, each in enumerate(again)
    ]
    return Variant(
        mode=Mode(
            name=name,
            saved_bytes=max(kept.saved_bytes, gained_bytes),
            keeps_input=kept.keeps_input,
            keeps_output=kept.keeps_output,
            forward_working_bytes=forward_bytes,
            backward_working_bytes=trace.working_bytes(begin, end),
            backward_flops=0,
        ),
        forward_ratio=ratio.forward,
        total_ratio=ratio.total,
        unsaved_working_bytes=max(unsaved) if again else None,
        recompute_working_bytes=max(repeated, default=None),
    )
