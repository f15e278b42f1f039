"""Gives each rank of a cell a process of its own, and makes one record of what they say.

`python -m bench run --ranks 2` starts them all; under `torchrun` each of its processes starts one,
and the first collects. Either way a rank is a process below the one that waits for it, so that its
end is seen and named whatever it is.
"""

from __future__ import annotations

import concurrent.futures
import datetime
import os
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path

import msgspec
from torch.distributed.rendezvous import rendezvous

from bench.cells.cell import Cell
from bench.ranks import divisible, parallel, places
from bench.ranks.group import Task
from bench.ranks.merged import Answer, records_of
from bench.ranks.parallel import Parallel
from bench.ranks.rank import measure_rank
from bench.run import executor
from bench.run.blank import blank
from bench.run.endings import Ending, bounded
from bench.store.records import Record, decode

_GRACE_S = 3.0
"""For the others to end, once one has: what they say tells who was first."""
_PRELOAD = ("bench.ranks.rank", "torch.distributed.fsdp", "torch.distributed.tensor.parallel")


def checked(cell: Cell) -> Cell:
    """The cell, if its workload and device can be divided over its ranks.

    Args:
        cell: checked (`bench.cells.cell.checked`).

    Raises:
        ValueError: they cannot; says why.
    """
    way = parallel.parse(cell.parallel, cell.ranks)
    problem = divisible.problem(way, cell.make_workload()) or _device_problem(cell, way)
    if problem is None and (way.megatron or way.mixed):
        problem = "megatron and mixed=true are simulated alone: --device sim:h100-80gb"
    if problem is None and way.context > 1 and cell.device != "cpu":
        problem = f"cp goes round with the CPU's kernel alone, not on {cell.device}; or simulate it"
    if problem:
        raise ValueError(problem)
    return cell


def _device_problem(cell: Cell, way: Parallel) -> str | None:
    if cell.simulated:
        return f"ranks share a real device, not {cell.device}"
    if cell.interval_width is not None:
        return "several ranks run as many rounds as --rounds says; --precision takes no percentage"
    return places.problem(cell, way)


def run(cell: Cell, timeout_s: float = executor.TIMEOUT_S) -> list[Record]:
    """Measure a cell on its ranks: one record of all together, then one of each.

    Args:
        cell: checked (`checked`).
        timeout_s: after which all ranks are ended.
    """
    with tempfile.TemporaryDirectory(prefix="ckpt-bench-") as folder:
        tasks = [
            Task(
                cell=cell,
                record=blank(cell),
                rank=rank,
                local_rank=rank,
                backend=places.backend(cell),
                address=f"file://{Path(folder) / 'store'}",
                timeout_s=timeout_s,
            )
            for rank in range(cell.ranks)
        ]
        return records_of(cell, _answers(tasks))


def _answers(tasks: list[Task]) -> list[Answer]:
    kin: executor.Kin = set()
    with concurrent.futures.ThreadPoolExecutor(len(tasks)) as pool:
        futures = {pool.submit(answer, task, kin): task.rank for task in tasks}
        try:
            _wait(list(futures))
            silent = {rank for future, rank in futures.items() if not future.done()}
        finally:
            executor.end_all(kin)
    quiet = Ending("timeout", "gave no answer, and the others waited for it")
    return [
        Answer(rank, quiet, time.time()) if rank in silent else future.result()
        for future, rank in futures.items()
    ]


def _wait(futures: list[Future[Answer]]) -> None:
    """Until all have answered, or one has failed and the others had time to notice."""
    for future in concurrent.futures.as_completed(futures):
        if future.result().ending is not None:
            concurrent.futures.wait(futures, _GRACE_S)
            return


def answer(task: Task, kin: executor.Kin | None = None) -> Answer:
    """What one rank says, in a process of its own.

    Args:
        task: its own.
        kin: the processes of all ranks of this machine.
    """
    given = executor.in_process(
        measure_rank, msgspec.json.encode(task), task.timeout_s, _PRELOAD, kin
    )
    return Answer(task.rank, _record(given), time.time())


def _record(given: bytes | Ending) -> Record | Ending:
    if isinstance(given, Ending):
        return given
    try:
        return decode(given)
    except ValueError as error:
        return Ending("crash", bounded(f"the process's answer is no record: {error}"))


def run_as_rank(cell: Cell, timeout_s: float = executor.TIMEOUT_S) -> list[Record]:
    """As `run`, where torchrun has started one process for each rank: this is one of them.

    Returns:
        The records on rank 0; nothing elsewhere.
    """
    store, rank, ranks = next(rendezvous("env://"))
    task = Task(
        cell=cell,
        record=blank(cell),
        rank=rank,
        local_rank=int(os.environ["LOCAL_RANK"]),
        backend=places.backend(cell),
        address=f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
        timeout_s=timeout_s,
    )
    place = f"answers {task.record.cell_id}"
    store.set(f"{place} {rank}", _packed(answer(task)))
    if rank:
        return []
    wait = datetime.timedelta(seconds=timeout_s + _GRACE_S)
    keys = [f"{place} {one}" for one in range(ranks)]
    store.wait(keys, wait)
    return records_of(cell, [_unpacked(one, store.get(key)) for one, key in enumerate(keys)])


def _packed(one: Answer) -> bytes:
    return msgspec.json.encode((one.ending is None, one.at_s, one.given))


def _unpacked(rank: int, data: bytes) -> Answer:
    measured, at_s, given = msgspec.json.decode(data, type=tuple[bool, float, msgspec.Raw])
    kind: type[Record | Ending] = Record if measured else Ending
    return Answer(rank, msgspec.json.decode(given, type=kind), at_s)
