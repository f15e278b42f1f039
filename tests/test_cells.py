"""A cell is plain data; checking it names what is wrong, and its id changes with what decides."""

import msgspec
import pytest
import tiny
import torch

from bench import devices
from bench.cells import machine, sources
from bench.cells.cell import Cell, checked, with_parameters

CELL = Cell(workload="mlp-chain", spec="every_k", threads=1)


def change(cell=CELL, **fields):
    return msgspec.structs.replace(cell, **fields)


# Checking.


def test_checking_writes_everything_out():
    cell = checked(change(options={"layers": 4, "dim": 256}, threads=0))
    assert cell.spec == "every_k(k=4)"
    assert cell.options == {"layers": 4}  # 256 is the default
    assert cell.threads == torch.get_num_threads() > 0
    assert checked(cell) == cell


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"workload": "mlp"}, "no workload 'mlp'"),
        ({"workload": "mlp-chains"}, "Did you mean 'mlp-chain'"),
        ({"options": {"depth": 3}}, "has no option 'depth'; it has layers, batch"),
        ({"options": {"layers": 0}}, "layers must be a whole number of at least 1, not 0"),
        ({"options": {"layers": "4"}}, "layers must be a whole number, not '4'"),
        ({"spec": "every_n"}, "unknown strategy 'every_n'.*there are auto, binomial, compressed"),
        ({"spec": "every_k(k=0)"}, "k must be at least 1"),
        ({"spec": "every_k(k=half)"}, "k must be of type int, not 'half'"),
        ({"spec": "every_k(4)"}, "cannot read strategy"),
        ({"spec": "none(k=4)"}, "strategy 'none' has no parameter 'k'"),
        ({"device": "tpu"}, "no device 'tpu'; it has cpu"),
        ({"precision": "fp8"}, "precision must be one of fp32, .*, not 'fp8'"),
        ({"optimizer": "lion"}, "optimizer must be one of none, sgd, .*, not 'lion'"),
        ({"optimizer": "adamw-8bit"}, "the memory is modelled, not the values: its device must be"),
        ({"precision": "bf16-master"}, "keeps fp32 weights for an optimizer: name one"),
        (
            {"precision": "fp16-master", "optimizer": "sgd", "ranks": 2, "parallel": "fsdp2"},
            "fp16-master is of one rank; fsdp2",
        ),
        (
            {
                "precision": "fp16-gradscaler",
                "device": "sim:l4-24gb",
                "ranks": 2,
                "parallel": "ddp",
            },
            "fp16-gradscaler is of one rank; fsdp2",
        ),
        ({"precision": "fp16-gradscaler"}, "needs an accelerator; on cpu use fp32 or bf16"),
        ({"interval_width": 0.0, "rounds": 2}, "above 0 % and at most 100 % wide, not 0 %"),
        ({"interval_width": 0.1, "rounds": 0}, "where no rounds are timed"),
        ({"rounds": -1}, "rounds must be at least 0, not -1"),
        ({"warmup": -1}, "warmup must be at least 0, not -1"),
        ({"threads": -2}, "threads must be at least 0, not -2"),
        ({"memory_limit_bytes": -5}, "the memory limit must be at least 0, not -5"),
    ],
)
def test_what_is_impossible_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        checked(change(**fields))


def test_a_memory_limit_is_for_the_cpu(monkeypatch):
    monkeypatch.setattr(devices, "available", lambda: {"cpu": "a", "cuda": "b"})
    with pytest.raises(ValueError, match="only a cpu cell takes a memory limit, not one on cuda"):
        checked(change(device="cuda", memory_limit_bytes=10**9))
    assert checked(change(device="cuda")).device == "cuda"
    assert checked(change(memory_limit_bytes=10**9)).memory_limit_bytes == 10**9


def test_gradient_scaling_is_for_accelerators(monkeypatch):
    monkeypatch.setattr(devices, "available", lambda: {"cpu": "a", "cuda": "b"})
    assert checked(change(device="cuda", precision="fp16-gradscaler")).device == "cuda"


def test_a_cell_survives_json():
    cell = checked(change(options={"layers": 3}, seed=7, memory_limit_bytes=5))
    assert msgspec.json.decode(msgspec.json.encode(cell), type=Cell) == cell


def test_a_cell_makes_what_it_names():
    cell = tiny.cell("gpt-mini", "every_k(k=3)")
    assert (cell.make_workload().name, cell.make_workload().dim) == ("gpt-mini", 16)
    assert cell.make_strategy().k == 3


# Identity.


@pytest.mark.parametrize(
    "fields",
    [
        {"workload": "vit-mini"},
        {"options": {"layers": 3}},
        {"spec": "every_k(k=2)"},
        {"precision": "bf16-autocast"},
        {"optimizer": "sgd"},
        {"rounds": 7},
        {"warmup": 2},
        {"seed": 1},
        {"threads": 2},
        {"memory_limit_bytes": 10**9},
        {"interval_width": 0.02},
    ],
)
def test_the_id_changes_with_every_field(fields):
    assert change(**fields).cell_id() != CELL.cell_id()


def test_the_id_is_of_the_meaning_not_of_the_words():
    same = change(spec=" every_k( k = 4 )", options={"layers": 16, "batch": 2048})
    assert same.cell_id() == CELL.cell_id()
    assert len(CELL.cell_id()) == 12


@pytest.mark.parametrize(("owner", "what"), [(sources, "code_hash"), (machine, "machine_id")])
def test_the_id_changes_with_code_and_machine(monkeypatch, owner, what):
    before = CELL.cell_id()
    monkeypatch.setattr(owner, what, lambda *_, **__: "another")
    assert CELL.cell_id() != before


# Parameters for several strategies at once.


def test_each_strategy_takes_the_parameters_that_it_has():
    specs = ["none", "every_k", "sqrt"]
    assert with_parameters(specs, {"k": 2, "keep_last": False}) == [
        "none",
        "every_k(k=2)",
        "sqrt(keep_last=False)",
    ]
    assert with_parameters(["every_k(k=8, keep_last=True)"], {"k": 2}) == [
        "every_k(k=2, keep_last=True)"
    ]
    assert with_parameters(["sqrt", "none"], {}) == ["sqrt", "none"]


@pytest.mark.parametrize(
    ("specs", "parameters", "message"),
    [
        (["none", "sqrt"], {"k": 2}, "strategy 'none' has no parameter 'k'"),
        (["none", "every_k"], {"k": 0}, "k must be at least 1"),
        (["every_n"], {}, "unknown strategy 'every_n'"),
    ],
)
def test_a_parameter_that_nobody_has_is_refused(specs, parameters, message):
    with pytest.raises(ValueError, match=message):
        with_parameters(specs, parameters)
