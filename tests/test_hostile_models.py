"""Users' files that end their process, never return, or disturb it: one sentence with the file."""

import msgspec
import pytest

from bench import workloads
from bench.cells.cell import Cell, checked
from bench.cli import plan
from bench.run import executor, guarded

NET = """
import os, sys, threading, time
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def build():
    return Net()


def batch():
    return torch.ones(2, 8)
"""
EXITS = "os._exit(3)"
BUILDS = f"def build():\n    {EXITS}"
FORWARD = f"Net.forward = lambda self, x: {EXITS}"
HANGS = "while True:\n    time.sleep(1)"
QUIET = {
    "prints": "print('x' * 3_000_000)",
    "changes the folder": "os.chdir('/')",
    "forks": "if os.fork() == 0:\n    time.sleep(100)",
    "starts a thread": "threading.Thread(target=time.sleep, args=(100,), daemon=True).start()",
}


def cell_of(path, code, **fields):
    path.write_text(f"{NET}\n{code}\n")
    workload = workloads.get(f"{path}:build")
    setting = {"spec": "every_layer", "device": "sim:h100-80gb", "rounds": 0, **fields}
    return checked(Cell(workload=workload.name, options=workload.options(), **setting))


@pytest.mark.parametrize(("code", "how"), [(EXITS, "exit code 3"), (BUILDS, "exit code 3")])
def test_a_file_that_ends_the_process_is_named(code, how, tmp_path):
    path = tmp_path / "own.py"
    with pytest.raises(ValueError, match=f"^{path}: the process ended with {how} while its code"):
        executor.run(cell_of(path, code))


def test_a_file_that_never_ends_is_named(tmp_path):
    path = tmp_path / "own.py"
    with pytest.raises(ValueError, match=f"^{path}: no result within 2 s while its code ran$"):
        executor.run(cell_of(path, HANGS), timeout_s=2)


def test_a_step_that_ends_the_process_is_a_row_that_names_the_file(tmp_path):
    path = tmp_path / "own.py"
    record = executor.run(cell_of(path, FORWARD))
    assert record.status == "crash"
    assert record.reason == f"the process ended with exit code 3; the model is of {path}"


@pytest.mark.parametrize("what", QUIET)
def test_a_file_that_disturbs_its_process_is_measured_all_the_same(what, tmp_path):
    record = executor.run(cell_of(tmp_path / "own.py", QUIET[what]), timeout_s=60)
    assert (record.status, record.reason) == ("ok", None)


@pytest.mark.parametrize("code", [EXITS, BUILDS])
def test_a_command_that_looks_at_the_model_itself_goes_on(code, tmp_path):
    path = tmp_path / "own.py"
    cell = cell_of(path, code, spec="none")
    asked = msgspec.json.encode((cell, "optimal", "50%", False))
    with pytest.raises(ValueError, match=f"^{path}: the process ended with exit code 3"):
        guarded.answer(plan.planned, asked, cell)


def test_a_refusal_is_said_in_its_own_words(tmp_path):
    cell = cell_of(tmp_path / "own.py", "", spec="none")
    asked = msgspec.json.encode((cell, "optimal", "1", False))
    with pytest.raises(
        ValueError,
        match=r"^nothing fits into 1 bytes; the smallest budget that does is [\d,]+ bytes$",
    ):
        guarded.answer(plan.planned, asked, cell)
