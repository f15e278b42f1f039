"""Names that nothing has are refused before PyTorch is loaded, and no other name is."""

import subprocess
import sys

import pytest

from bench import workloads
from bench.cli import names
from strategies.contract import foreign, registry

UNKNOWN = (
    (
        "--workload",
        "gpt-mni",
        "no workload 'gpt-mni'. Did you mean 'gpt-mini'? There are gpt-mini,",
    ),
    ("--model", "zzz", "no workload 'zzz'. There are gpt-mini, gpt-mini-dropout"),
    (
        "--strategy",
        "sqr",
        "unknown strategy 'sqr' (did you mean 'sqrt'?); there are auto, binomial",
    ),
    ("--strategy", "zzz(k=2)", "unknown strategy 'zzz'; there are auto, binomial"),
)
WITHOUT_TORCH = """
import sys
import importlib.abc
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        assert name != "torch"
sys.meta_path.insert(0, Refuse())
from bench import __main__
__main__.main()
"""


def test_names_that_are_written_are_those_that_there_are():
    assert set(names.workloads()) == set(workloads.available())
    assert set(names.strategies()) == {*registry.available(), *registry.peers()}
    assert foreign.ENTRY_POINTS == names.GROUP


@pytest.mark.parametrize(("option", "text", "sentence"), UNKNOWN)
def test_an_unknown_name_is_refused(option, text, sentence):
    for arguments in ([option, text], [f"{option}={text}"]):
        with pytest.raises(ValueError, match=r"no workload|unknown strategy") as refusal:
            names.check(["run", *arguments, "--rounds", "2"])
        assert str(refusal.value).startswith(sentence)


@pytest.mark.parametrize("spec", [*registry.available(), *registry.peers()])
def test_a_strategy_is_not_refused(spec):
    names.check(["--strategy", spec, "--strategy", f" {spec} (over=sqrt)"])


@pytest.mark.parametrize(
    "name", ["own.py:build", "hf:gpt2", "package.module:build", "build.py", ""]
)
def test_a_model_of_elsewhere_is_not_looked_for_here(name):
    names.check(["--model", name])


def test_a_class_in_a_file_of_another_name_is_a_strategy(tmp_path, monkeypatch):
    folder = tmp_path / "strategies"
    folder.mkdir()
    (folder / "halves.py").write_text("class SecondHalf(Strategy):\n    pass\n")
    monkeypatch.setattr(names, "ROOT", tmp_path)
    names.check(["--strategy", "second_half"])
    with pytest.raises(ValueError, match="unknown strategy 'first_half'"):
        names.check(["--strategy", "first_half"])


@pytest.mark.parametrize(("option", "text", "sentence"), UNKNOWN[:3])
def test_no_torch_is_needed_to_refuse(option, text, sentence):
    given = {"--workload": "gpt-mini", "--strategy": "none"}
    given.pop("--workload" if option == "--model" else option)
    others = [word for pair in given.items() for word in pair]
    command = (sys.executable, "-c", WITHOUT_TORCH, "run", option, text, *others)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr[-2000:]
    assert done.stderr.startswith(f"error: {sentence}")
