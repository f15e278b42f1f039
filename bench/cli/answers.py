"""A study in a process of its own; one that ends without an answer is a study that says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Study = TypeVar("Study")


def answer_of(
    work: Callable[[bytes], bytes],
    payload: bytes,
    timeout_s: float,
    preload: Sequence[str],
    *,
    blank: Callable[..., Study],
    decode: Callable[[bytes], Study],
) -> Study:
    """What ``work`` makes of ``payload``.

    Args:
        work: a function of a module.
        payload: its argument.
        timeout_s: after which the process is killed.
        preload: modules that all processes share.
        blank: makes the study of a ``problem``.
        decode: reads the answer.
    """
    from bench.run import executor
    from bench.run.endings import Ending

    answer = executor.in_process(work, payload, timeout_s, preload)
    if isinstance(answer, Ending):
        return blank(problem=f"{answer.status}: {answer.reason}")
    return decode(answer)
