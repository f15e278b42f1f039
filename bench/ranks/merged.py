"""What the ranks of a cell say together, and which of them is to blame when they do not."""

from __future__ import annotations

import dataclasses
import re
import signal
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from bench.cells.cell import Cell
from bench.run.blank import blank
from bench.run.endings import Ending, bounded
from bench.store.records import Record

_WAITED = re.compile(r"time(d)?[ -]?out", re.IGNORECASE)
"""In what torch.distributed says of a rank that did not come."""
_SIGNALS = re.compile(rf"signal ({'|'.join(one.name for one in signal.Signals)})\b")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came from one rank.

    Attributes:
        rank: whose.
        given: its record, or how it ended without.
        at_s: when, by a clock of all ranks.
    """

    rank: int
    given: Record | Ending
    at_s: float

    @property
    def ending(self) -> Ending | None:
        """How it ended, if not with a record."""
        return self.given if isinstance(self.given, Ending) else None

    @property
    def silent(self) -> bool:
        """It said nothing until its time was over."""
        return self.ending is not None and self.ending.status == "timeout"

    @property
    def waited(self) -> bool:
        """It gave up because another did not come."""
        return self.ending is not None and _WAITED.search(self.ending.reason) is not None

    @property
    def killed(self) -> bool:
        """It ended by a signal, or for want of memory: not because of another.

        NCCL's watchdog aborts a process that has waited too long.
        """
        ending = self.ending
        if ending is None or (self.waited and "SIGABRT" in ending.reason):
            return False
        return ending.status == "oom" or _SIGNALS.search(ending.reason) is not None


def culprit(answers: Iterable[Answer]) -> Answer | None:
    """Whose ending made the others end, or ``None`` if all gave records.

    When one process is gone the others lose their connection to it, and when one hangs they tire of
    waiting. So a silent one is to blame if all others waited; else one that was killed; else the
    first.
    """
    failed = [answer for answer in answers if answer.ending is not None]
    silent = [answer for answer in failed if answer.silent]
    others = [answer for answer in failed if not answer.silent]
    if silent and all(answer.waited and not answer.killed for answer in others):
        return min(silent, key=lambda answer: answer.rank)
    return min(others, key=lambda answer: (not answer.killed, answer.at_s), default=None)


def records_of(cell: Cell, answers: Sequence[Answer]) -> list[Record]:
    """One record of all ranks, and then one of each, in their order."""
    cause = culprit(answers)
    own = sorted((_own(cell, answer, cause) for answer in answers), key=lambda r: r.rank or 0)
    return [_together(cell, own, cause), *own]


def _own(cell: Cell, answer: Answer, cause: Answer | None) -> Record:
    """The record of one rank; none is whole where another rank failed."""
    if cause is None:
        assert isinstance(answer.given, Record)
        return answer.given
    given = _beside(answer, cause)
    record = blank(cell, given.status, bounded(given.reason))
    return msgspec.structs.replace(record, rank=answer.rank)


def _beside(answer: Answer, cause: Answer) -> Ending:
    """How a rank ended, said of one that another made end."""
    ending = answer.ending
    if ending is None:
        return Ending("crash", f"had measured when rank {cause.rank} failed")
    if answer is cause:
        return ending
    if answer.silent:
        return Ending("crash", f"was ended with rank {cause.rank}")
    return Ending(ending.status, f"ended with rank {cause.rank}: {ending.reason}")


def _together(cell: Cell, own: Sequence[Record], cause: Answer | None) -> Record:
    if cause is not None:
        assert cause.ending is not None
        reason = bounded(f"rank {cause.rank}: {cause.ending.reason}")
        return blank(cell, cause.ending.status, reason)
    peaks = [record.peak_allocated_bytes or 0 for record in own]
    largest = own[peaks.index(max(peaks))]
    bad = next((record for record in own if record.status != "ok"), None)
    return msgspec.structs.replace(
        largest,
        rank=None,
        status=bad.status if bad else "ok",
        reason=bad and bounded(f"rank {bad.rank}: {bad.reason}"),
        duration_s=max(record.duration_s or 0.0 for record in own),
        rank_peaks_bytes=peaks,
        loss=statistics.fmean(record.loss for record in own if record.loss is not None),
        step_s=_slowest([record.step_s for record in own]),
        none_step_s=_slowest([record.none_step_s for record in own]),
        warmup_step_s=_slowest([record.warmup_step_s for record in own]),
        grads_bitwise_equal=all(record.grads_bitwise_equal for record in own),
        communication_calls=_sum(record.communication_calls for record in own),
        communication_bytes=_sum(record.communication_bytes for record in own),
        recomputed_collectives=_sum(record.recomputed_collectives for record in own),
    )


def _slowest(times_s: Sequence[Sequence[float]]) -> list[float]:
    """Of each round: ranks begin it together, and it is over when the last is done."""
    return [max(one) for one in zip(*times_s, strict=True)]


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)
