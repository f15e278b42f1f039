"""``python -m bench models``: real architectures, studied here; the table; the command."""

import re
from pathlib import Path

import command
import msgspec
import pytest
import torch
from torch import nn

from bench import architectures
from bench.architectures.base import Architecture
from bench.cli import models as commands
from bench.report import models as report
from bench.report.regenerate import regenerate
from bench.store import models as store
from bench.studies import models

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:transformers", "ignore::FutureWarning:transformers"
)
ROOT = Path(__file__).parent.parent
MADE = {
    "torch_version": "2.13.0",
    "python_version": "3.11.1",
    "machine_id": "abacus",
    "machine": {"processor": "beads"},
    "commit": None,
    "dirty": None,
    "started_at_utc": "2026-01-02T03:04:05+00:00",
}


def made(model="gpt2", **fields):
    fields = {"library": "transformers", "library_version": "5.0", **fields}
    return store.Study(**MADE, schema_version=store.SCHEMA_VERSION, model=model, **fields)


def outcome(spec, verdict="bitwise", **fields):
    return store.Outcome(spec=spec, verdict=verdict, **fields)


def sized(model, layer_bytes, own_bytes, **fields):
    outcomes = [
        outcome("every_layer", peak_bytes=1000 + layer_bytes),
        outcome("sqrt", "refused", reason="no chain | of blocks"),
        outcome(store.OWN, peak_bytes=1000 + own_bytes),
    ]
    sizes = {"resident_bytes": 1000, "plain_peak_bytes": 2000, "towers": ["h"], "block_count": 6}
    return made(model, outcomes=outcomes, **sizes, **fields)


def test_the_catalogue_is_large_and_its_names_are_files():
    names = architectures.CATALOGUE
    assert len(names) >= 60
    assert len({store.path_of(made(name)) for name in names}) == len(names)
    with pytest.raises(ValueError, match=r"no model 'gpt5'; there are nn\.Transformer,"):
        architectures.get("gpt5")


def test_the_loss_is_the_models_own_or_squares():
    a, b = torch.ones(2, requires_grad=True), torch.zeros(1)
    assert models.loss_of((2 * a, [3 * a], b)).item() == 13
    assert models.loss_of(type("Output", (), {"loss": 5 * a})).item() == 10


@pytest.mark.parametrize("name", ["U-Net", "llama", "albert, two groups"])
def test_an_architecture_is_trained_to_the_bit(name, monkeypatch):
    monkeypatch.setattr(models, "SPECS", ("every_layer", "recursive"))
    if not architectures.get(name).installed:
        pytest.skip("transformers is not installed")
    found = models.study(name)
    assert not found.problem
    assert [one.verdict for one in found.outcomes][:2] == ["bitwise", "bitwise"]
    assert report.peak(found, "every_layer") < 0.75
    if name == "llama":
        assert report.versus_own(found) == 1
        assert found.towers == ["model.layers"]
    else:
        assert found.outcomes[-1].verdict == "refused"


class Moody(nn.Module):
    """Wrong, if a checkpoint calls a block again; the last block fails then."""

    def __init__(self, fails):
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.calls, self.fails = [], fails

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
            if "forward" in vars(block):
                x = x / 0 if self.fails else 2 * x
                assert not self.fails, "one. two"
        return x


@pytest.mark.parametrize(("fails", "verdict"), [(False, "WRONG"), (True, "error")])
def test_what_is_wrong_and_what_fails_is_told(fails, verdict, monkeypatch):
    moody = Architecture("torch", lambda: (Moody(fails), (torch.randn(1, 2),)))
    monkeypatch.setitem(architectures.CATALOGUE, "moody", moody)
    found = {one.spec: one for one in models.study("moody").outcomes}
    assert found["none"].verdict == "bitwise"
    assert found["every_layer"].verdict == verdict
    assert found["every_layer"].reason == ("AssertionError: one" if fails else "the loss differs")
    assert found[store.OWN].reason == "the library has none"


def test_what_is_not_installed_and_what_cannot_be_built_is_a_study(monkeypatch):
    missing = Architecture("abacus_models", lambda: pytest.fail("built"))
    monkeypatch.setitem(architectures.CATALOGUE, "missing", missing)
    monkeypatch.setitem(architectures.CATALOGUE, "odd", Architecture("torch", lambda: 1 / 0))
    assert not models.study("missing").installed
    assert models.study("odd").problem == "ZeroDivisionError: division by zero"
    assert models.study("odd").bad
    assert not models.study("missing").bad


def test_a_gradient_where_there_is_none_is_a_difference():
    states = (torch.zeros(1),)
    plain, trained = (
        models.Trained(torch.ones(1), {"w": g}, {}, states) for g in (None, torch.ones(1))
    )
    assert models.difference(plain, trained) == "a gradient where there is none: w"
    assert models.difference(plain, plain) is None


def test_only_ours_is_bad():
    assert not made(outcomes=[outcome(store.OWN, "WRONG"), outcome("sqrt", "refused")]).bad
    assert made(outcomes=[outcome("sqrt", "WRONG")]).bad
    assert made(outcomes=[outcome("sqrt", "error")]).bad


def test_the_table():
    wrong = made("bert", outcomes=[outcome("every_layer", "WRONG", reason="the loss differs")])
    absent = made("timm vit", library="timm", library_version=None)
    dead = made("rwkv", problem="crash: signal SIGSEGV")
    text = report.markdown([sized("gpt2", 500, 400), sized("t5", 300, 400), wrong, absent, dead])
    assert text.splitlines()[2].startswith("cpu (")
    assert text.splitlines()[2].endswith("; transformers 5.0")
    assert f"torch {MADE['torch_version']}; {MADE['started_at_utc'][:10]}" in text
    assert "cpu (" not in report.markdown([absent])
    assert "4 architectures were here, 1 need a library that is not installed; 1 came to" in text
    assert "Models under a strategy: 1 WRONG, 2 bitwise, 2 refused." in text
    assert "in 1 of 2 models in which that one is bitwise, too, and lower in 1;" in text
    wrong = made(
        "bn",
        outcomes=[
            outcome("every_layer", peak_bytes=1501),
            outcome(store.OWN, "WRONG", peak_bytes=1500),
        ],
        resident_bytes=1000,
        plain_peak_bytes=2000,
    )
    assert (
        "in the 1 models in which the library's own is *WRONG* it is higher in 1, by 0.20 % at"
        in report.summary([wrong])
    )
    [line] = re.findall(r"^\| gpt2 .*", text, re.MULTILINE)
    assert [part.strip() for part in line.split("|")[1:-1]] == [
        *("gpt2", "transformers", MADE["torch_version"], "6 in 1", "bitwise", "refused"),
        *("0.50×", "0.40×", "**1.250×**"),
    ]
    assert f"| bert | transformers | {MADE['torch_version']} | — | **WRONG** | — |" in text
    assert "| timm vit | timm | — | — | not installed | not installed |" in text
    assert f"| rwkv | transformers | {MADE['torch_version']} | — | **error** | **error** |" in text
    assert "- rwkv: crash: signal SIGSEGV" in text
    assert r"- gpt2, sqrt: refused: no chain \| of blocks" in text
    lines = report.csv([sized("gpt2", 500, 400), absent]).splitlines()
    assert len(lines) == 1 + 3 + 1
    assert "every_layer,bitwise,,1500,0.5" in lines[1]
    assert lines[-1].endswith("not installed,,,")


def test_the_table_is_made_from_what_is_stored(tmp_path):
    store.write(sized("gpt2", 500, 400), tmp_path)
    regenerate(tmp_path, None)
    assert {p.name for p in (tmp_path / "tables").iterdir()} == {"models.md", "models.csv"}
    assert regenerate(tmp_path, None, check=True) == []


def test_the_command_on_one_model(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "PRELOAD", ())  # to import transformers takes seconds
    done = command.run("models", "--only", "LSTM stack", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    [found] = store.read_all(tmp_path)
    assert found.model == "LSTM stack"
    assert f"| LSTM stack | torch | {torch.__version__} | 6 in 1 |" in done.stdout
    assert done.stdout == (tmp_path / "tables" / "models.md").read_text("utf-8")
    assert done.stderr == "LSTM stack: bitwise under all\n"


def test_what_is_not_installed_leaves_what_is_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "PRELOAD", ())
    missing = Architecture("abacus_models", lambda: pytest.fail("built"))
    monkeypatch.setitem(architectures.CATALOGUE, "missing", missing)
    assert architectures.named((), ["abacus_models"]) == ["missing"]
    assert architectures.named(["gpt2", "gpt2"], ["abacus_models"]) == ["gpt2", "missing"]
    with pytest.raises(ValueError, match="no models of abacus; there are abacus_models, "):
        architectures.named((), ["abacus"])
    assert architectures.named((), ()) == list(architectures.CATALOGUE)
    before = models.blank("missing")
    store.write(msgspec.structs.replace(before, library_version="1"), tmp_path)
    commands.studied("missing", 60, tmp_path)
    [kept] = store.read_all(tmp_path)
    assert kept.library_version == "1"


def test_an_unknown_model_and_one_that_dies(tmp_path):
    arguments = ["--results", str(tmp_path / "results")]
    unknown = command.run("models", "--only", "gpt5", *arguments)
    assert unknown.returncode == 2
    assert "no model 'gpt5'" in unknown.stderr
    assert not (tmp_path / "results").exists()
    late = command.run("models", "--only", "U-Net", "--timeout", "0.01", *arguments)
    assert late.returncode == 1
    assert "timeout: no result within 0.01 s" in late.stderr


def test_results_readme_documents_every_field_in_order():
    text = (ROOT / "results" / "README.md").read_text("utf-8")
    section = text.partition("## One study of a model")[2].partition("\n## ")[0]
    names = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert names == [*store.Study.__struct_fields__, *store.Outcome.__struct_fields__]
