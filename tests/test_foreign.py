"""Strategies of other distributions: known by name, loaded when chosen, one sentence if broken."""

import json
import sys
from pathlib import Path

import command
import pytest
from models import CASES, assert_same, step

import strategies
from bench.run import sweep
from strategies.contract import foreign, registry

PACKAGE = Path(__file__).parent / "example_package"
MODULE = "example_checkpoints"


def distribution(folder, name, entries, version="1.2"):
    """Make ``folder`` hold an installed distribution of that name, with these entry points."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"[{foreign.ENTRY_POINTS}]", *(f"{key} = {value}" for key, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join([*lines, ""]))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs distributions: of the example package, if none is described."""
    for place in (tmp_path, PACKAGE):
        monkeypatch.syspath_prepend(str(place))

    def install(name="example-checkpoints", **entries):
        distribution(tmp_path, name, entries or {"every_other": f"{MODULE}:EveryOther"})
        return tmp_path

    yield install
    for module in (MODULE, "broken_checkpoints"):
        sys.modules.pop(module, None)


def test_it_is_listed_without_a_line_of_it_being_run(installed):
    installed()
    assert "every_other" in strategies.available()
    assert list(strategies.available()) == sorted(strategies.available())
    rows = json.loads(command.run("list", "strategies", "--format", "json").stdout)
    row = next(row for row in rows if row["name"] == "every_other")
    assert row["summary"] == "Of example-checkpoints 1.2; loaded when it is chosen"
    with pytest.raises(ValueError, match=r"did you mean 'every_other'.*there are .*every_other"):
        strategies.get("every_othre")
    assert strategies.get("sqrt").spec() == "sqrt"
    assert MODULE not in sys.modules


def test_it_is_loaded_when_it_is_chosen_and_keeps_the_contract(installed):
    installed()
    case = CASES["loop"]
    model = case.model()
    wanted = step(case.model(), case.input())
    with strategies.apply(model, "every_other(first=1)") as applied:
        assert MODULE in sys.modules
        assert applied.plan == tuple((i,) if i % 2 else i for i in range(len(applied.chain)))
        assert_same(step(model, case.input()), wanted)
    assert strategies.get("offload(over=every_other)").below().spec() == "every_other"
    with pytest.raises(ValueError, match="'every_other' has no parameter 'last'; it has first"):
        strategies.get("every_other(last=1)")


def test_no_sweep_tries_it_unasked(installed):
    installed()
    assert not any("every_other" in spec for spec in [*sweep.every_spec(), *sweep.peer_specs()])
    assert MODULE not in sys.modules


@pytest.mark.long
def test_a_cell_of_it_is_measured_in_its_own_process(installed):
    installed()
    sizes = ("--layers=2", "--dim=16", "--seq=8", "--batch=2", "--option=heads=2", "--no-time")
    asked = ("run", "--workload=gpt-mini", "--strategy=every_other", "--device=cpu")
    done = command.run(*asked, *sizes, "--format=json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["status"], record["plan"]) == ("ok", "[0] 1")


BROKEN = {
    "no_such_module": ("nowhere:Strategy", "cannot be loaded: ModuleNotFoundError: No module"),
    "no_such_class": (f"{MODULE}:Nothing", "cannot be loaded: AttributeError: "),
    "no_class": (f"{MODULE}:__doc__", r"\(example_checkpoints:__doc__\) is not a Strategy class"),
    "no_strategy": ("builtins:dict", r"\(builtins:dict\) is not a Strategy class"),
    "misnamed": (f"{MODULE}:EveryOther", "calls itself 'every_other'; an entry point bears its"),
    "raising": ("broken_checkpoints:It", "cannot be loaded: RuntimeError: not today, or ever"),
    "exiting": ("broken_checkpoints:Exits", "cannot be loaded: RuntimeError: not today"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_one_is_one_sentence(name, installed):
    value, sentence = BROKEN[name]
    folder = installed(**{name: value})
    (folder / "broken_checkpoints.py").write_text('raise RuntimeError("not today,\\nor ever")\n')
    assert name in strategies.available()  # which breaks nothing
    with pytest.raises(
        ValueError, match=f"^strategy '{name}' of example-checkpoints 1.2.*{sentence}"
    ):
        strategies.get(name)
    done = command.run("run", "--workload=gpt-mini", f"--strategy={name}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_name_that_is_taken_is_an_error_and_ours_runs_all_the_same(installed):
    installed(sqrt=f"{MODULE}:EveryOther")
    sentence = r"two strategies are named 'sqrt': strategies\.sqrt and example-checkpoints 1\.2"
    with pytest.raises(ValueError, match=sentence):
        strategies.available()
    assert command.run("list", "strategies").returncode == 2
    assert type(strategies.get("sqrt")) is registry.classes()["sqrt"]


def test_so_it_is_of_a_peers_name(installed):
    installed(torch_checkpoint=f"{MODULE}:EveryOther")
    with pytest.raises(ValueError, match=r"strategies\.peers\.torch_checkpoint and example-"):
        strategies.available()


def test_two_distributions_may_not_declare_one_name(installed):
    installed()
    installed("another", every_other="elsewhere:EveryOther")
    with pytest.raises(ValueError, match=r"two strategies are named 'every_other': (ex|an)"):
        strategies.available()


def test_an_entry_point_may_name_what_is_here_already(installed):
    installed(every_k="strategies.every_k:EveryK")
    assert strategies.available().count("every_k") == 1
