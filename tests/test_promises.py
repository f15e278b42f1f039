"""``python -m bench promises``: budgets promised to training loops, measured; table and figure."""

import dataclasses
import re
from pathlib import Path

import command
import pytest
import torch
from effort import few
from torch import nn

import strategies
from bench import architectures
from bench.architectures.base import Architecture
from bench.report import promises as report
from bench.report.regenerate import regenerate
from bench.store import promises as store
from bench.studies import promises, subjects
from strategies.profiling.ledger import unique_bytes

ROOT = Path(__file__).parent.parent
STORED = {
    "torch_version": "2.13.0",
    "python_version": "3.11.1",
    "machine_id": "abacus",
    "machine": {"processor": "beads"},
    "commit": None,
    "dirty": None,
    "started_at_utc": "2026-01-02T03:04:05+00:00",
    "schema_version": store.SCHEMA_VERSION,
    "library": "torch",
    "library_version": "2.13.0",
    "device": "cpu",
    "device_name": "beads",
    "strategy": "auto",
    "optimizer": "adamw",
    "updates": 5,
}


def promise(budget_bytes, peak_bytes, gap=0.0):
    return store.Promise(
        budget_bytes=budget_bytes,
        plan="[0] 1",
        predicted_peak_bytes=peak_bytes,
        peak_allocated_bytes=peak_bytes,
        gap_fraction=gap,
    )


def loop(*kept, accumulation=False):
    return store.Loop(
        accumulation=accumulation, plain_peak_bytes=2000, smallest_bytes=1000, promises=list(kept)
    )


def study_of(model, *loops, **fields):
    return store.Study(**STORED, model=model, loops=list(loops), **fields)


# The study.


class Residual(nn.Module):
    """Two matrices, and a sum."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


def small():
    return nn.Sequential(*(Residual() for _ in range(6))), (torch.randn(512, 16),)


@pytest.mark.parametrize("name", few(["small", "U-Net", "LSTM stack"]))
def test_every_budget_is_kept(name, monkeypatch):
    monkeypatch.setitem(architectures.CATALOGUE, "small", Architecture("torch", small))
    studied = promises.study(promises.Question(name, budgets=3))
    assert [each.accumulation for each in studied.loops] == [False, True]
    for each in studied.loops:
        assert len(each.promises) == 3
        assert each.promises[0].budget_bytes == each.smallest_bytes
        assert each.promises[-1].budget_bytes == each.plain_peak_bytes
        assert all(map(report.kept, each.promises))
        assert min(map(report.used, each.promises)) > 0.85


class Growing(nn.Module):
    """Needs more in later steps than the profile can know of."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)))
        self.calls, self.hoard = 0, []

    def forward(self, x):
        self.calls += 1
        if self.calls > 20:
            self.hoard.append(torch.ones(10_000))
        return self.blocks(x)


def test_a_budget_that_is_broken_is_told(monkeypatch):
    growing = Architecture("torch", lambda: (Growing(), (torch.randn(32, 64),)))
    monkeypatch.setitem(architectures.CATALOGUE, "growing", growing)
    studied = promises.study(promises.Question("growing", budgets=8))
    assert not all(report.kept(one) for each in studied.loops for one in each.promises)


def test_what_cannot_be_planned_for_is_an_answer(monkeypatch):
    missing = Architecture("abacus_models", lambda: pytest.fail("built"))
    monkeypatch.setitem(architectures.CATALOGUE, "missing", missing)
    studied = promises.study(promises.Question("missing"))
    assert studied.problem == "abacus_models is not installed"
    assert studied.library_version is None
    with pytest.raises(ValueError, match="no model 'gpt5'"):
        subjects.library_of("gpt5")


def test_a_workload_is_a_model_with_batch_and_loss():
    subject = subjects.build("vit-mini")  # the smallest
    loss = subject.loss(subject.model(*subject.batch))
    assert loss.shape == ()
    assert loss.requires_grad
    assert unique_bytes(subject.model.parameters()) > 1e6
    assert set(subjects.NAMES) > {"gpt-mini", "t5", "U-Net"}


def test_targets_that_a_loss_holds_are_there_in_every_step():
    bench = promises.Bench(promises.Question("vit-mini"), accumulation=False)
    with_bytes, targets = bench.peak_bytes(1), bench.subject.targets
    bench.subject = dataclasses.replace(bench.subject, targets=())
    assert with_bytes - bench.peak_bytes(1) == unique_bytes(targets) > 0


def test_rows_are_many_and_no_copies():
    catalogued = architectures.get("U-Net").build()[1][0]
    (images,) = subjects.build("U-Net").batch
    assert images.shape == (subjects.DRAWS * len(catalogued), *catalogued.shape[1:])
    assert len(images.unique(dim=0)) == len(images)


def test_no_layer_is_dropped():
    if not architectures.get("bart").installed:
        pytest.skip("transformers is not installed")
    model = subjects.build("bart").model
    assert model.model.encoder.layerdrop == model.model.decoder.layerdrop == 0
    assert strategies.find_chain(model)


# The report.


def test_the_table():
    broken = study_of(
        "a|b",
        loop(promise(1000, 990), promise(2000, 2010, 0.1)),
        loop(promise(1000, 900, 0.1), promise(1000, 800), accumulation=True),
    )
    text = report.markdown([broken, study_of("c", problem="the blocks ran twice")])
    assert "3 of 4 budgets were kept; 1 were exceeded, by 0.50 % at most." in text
    lines = re.findall(r"^\| a\\\|b .*", text, re.MULTILINE)
    cells = [[part.strip() for part in line.split(" | ")] for line in lines]
    assert cells[0][2:4] == ["beads", "one batch"]
    assert cells[0][4:] == [
        *("**1 of 2**", "0.002", "0.50×", "100.50 %", "99.8 %", "99.0 %", "100.5 % |")
    ]
    assert cells[1][3:] == [
        *("two batches added up", "2 of 2", "0.002", "0.50×", "90.00 %", "85.0 %", "80.0 %"),
        "90.0 % |",
    ]
    assert "- c: the blocks ran twice" in text
    assert "cpu (beads); torch 2.13.0; 2026-01-02" in text
    assert len(report.csv([broken]).splitlines()) == 1 + 4


def test_table_and_figure_are_made_from_what_is_stored(tmp_path):
    store.write(study_of("a", loop(promise(1000, 990))), tmp_path)
    regenerate(tmp_path, None)
    assert {p.name for p in (tmp_path / "tables").iterdir()} == {"promises.md", "promises.csv"}
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"promises.svg", "promises.png"}
    assert regenerate(tmp_path, None, check=True) == []


def test_the_command(tmp_path):
    arguments = ["--budgets", "2", "--device", "cpu", "--results", str(tmp_path / "results")]
    done = command.run("promises", "--only", "U-Net", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "U-Net: 4 of 4 budgets kept\n"
    [studied] = store.read_all(tmp_path / "results")
    assert studied.model == "U-Net"
    assert done.stdout == (tmp_path / "results" / "tables" / "promises.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--only", "gpt5"], "no model 'gpt5'"),
        (["--budgets", "0"], "at least 1 budget, not 0"),
        (["--device", "abacus"], "no device 'abacus'"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, reason, tmp_path):
    done = command.run("promises", *arguments, "--results", str(tmp_path / "results"))
    assert done.returncode == 2
    assert reason in done.stderr
    assert not (tmp_path / "results").exists()


def test_results_readme_documents_every_field_in_order():
    text = (ROOT / "results" / "README.md").read_text("utf-8")
    section = text.partition("## One study of promises")[2].partition("\n## ")[0]
    names = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    kinds = (store.Study, store.Loop, store.Promise)
    assert names == [name for kind in kinds for name in kind.__struct_fields__]
