"""Every command takes a model from elsewhere, loads it in the process that measures, and says what
is wrong with it in one sentence."""

import json
import os

import command
import own_models
import preloaded
import pytest
import torch
from own_models import OWN

from bench import workloads
from bench.run import server
from bench.simulate import fit
from bench.store import records, validations
from bench.studies import frontier
from bench.workloads.sources import configurations

CPU, SIMULATED = ("--device", "cpu"), ("--device", "sim:rtx4090-24gb")
JSON = ("--format", "json")
MARK = """
import os, pathlib
with pathlib.Path(__file__).with_suffix(".pids").open("a") as stream:
    print(os.getpid(), file=stream)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the models' files lie; a package there can be imported."""
    yield from own_models.importable(tmp_path, monkeypatch)


WHOLE_FRONT = "a file with a function"
"""Whose front is drawn of every strategy; that of the others of a few of each kind."""
FRONT = ("none", "compressed", "optimal", "sqrt")


@pytest.fixture
def small_fronts(monkeypatch):
    """All cells are planned, and few are measured: a process each."""
    planned = frontier.planned

    def few(*asked):
        cells = planned(*asked)
        assert len(cells) > 2 * len(FRONT)
        return list({cell.spec.partition("(")[0]: cell for cell in cells if is_in(cell)}.values())

    def is_in(cell):
        return cell.spec.partition("(")[0] in FRONT

    monkeypatch.setattr(frontier, "planned", few)


@pytest.fixture(scope="module", autouse=True)
def transformers_are_shared(request):
    """In a long run, which has dozens of such cells; a short one has none."""
    if request.config.getoption("--long"):
        preloaded.share(server.shared("bench.run.executor", "hf:any"))


def bench(name, *arguments, own="a file with a function", folder):
    return command.run(name, *own_models.flags_of(OWN[own], folder), *arguments)


def test_a_users_file_is_loaded_in_the_process_of_the_cell_alone(folder):
    path = folder / "own.py"
    path.write_text(path.read_text() + MARK)
    arguments = ("--strategy", "sqrt", "--strategy", "none", *SIMULATED, *JSON)
    done = bench("run", *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    pids = path.with_suffix(".pids").read_text().split()
    assert len(pids) == len(set(pids)) == 2
    assert str(os.getpid()) not in pids


@pytest.mark.long
@pytest.mark.parametrize("name", ["run", "frontier"])
def test_sizes_and_fronts_are_searched_in_a_process_of_their_own(name, folder, small_fronts):
    path = folder / "own.py"
    path.write_text(path.read_text() + MARK)
    if name == "run":
        done = bench(
            "run", "--strategy", "sqrt", "--fit", "batch", *SIMULATED, *JSON, folder=folder
        )
        record = records.decode(done.stdout.encode())
        assert record.workload_options["batch"] == fit.LIMIT  # of rows of 32 bytes
    else:
        arguments = ("--budgets", "1", "--out", str(folder / "out"), *SIMULATED)
        assert bench("frontier", *arguments, folder=folder).returncode == 0
    pids = path.with_suffix(".pids").read_text().split()
    assert len(pids) == len(set(pids)) >= 2
    assert str(os.getpid()) not in pids


def test_what_is_wrong_is_one_sentence_and_exit_code_2(folder):
    path = folder / "own.py"
    path.write_text(path.read_text().replace("torch.randn(batch, 8)", "torch.randn(batch, 7)"))
    line = 1 + path.read_text().split("\n").index("        return x + self.inner(x).relu()")
    results = folder / "results"
    arguments = ("--strategy", "none", *CPU, "--no-time", "--results", str(results))
    done = bench("run", *arguments, folder=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {path}:{line}: RuntimeError: ")
    assert done.stderr.count("\n") == 1
    assert not list(results.rglob("*.json"))


def test_flags_of_batches_and_losses(folder):
    own = str(folder / "own.py")
    for flags, says in {
        ("--batch", "many"): "--batch takes a whole number or file.py:function, not 'many'",
        ("--batch", "2", "--batch", "3"): "--batch takes one of 2, 3",
        ("--loss", f"{own}:loss", "--option", f"criterion={own}:loss"): "twice: by --loss and by",
    }.items():
        done = bench("run", "--strategy", "none", *CPU, *flags, folder=folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert says in done.stderr
    done = command.run("run", "--workload", "mlp-chain", "--loss", f"{own}:x", "--strategy", "none")
    assert done.returncode == 2
    assert "workload 'mlp-chain' has no option 'criterion'" in done.stderr


# Everything, for every model.

COMMANDS = {
    "run": ("run", "--strategy", "none", "--strategy", "sqrt", *CPU, "--rounds", "2", *JSON),
    "run, simulated": ("run", "--strategy", "sqrt", *SIMULATED, *JSON),
    "plan": ("plan", "--budget", "100%", *CPU, *JSON),
    "plan, simulated": ("plan", "--budget", "100%", *SIMULATED, *JSON),
    "profile": ("profile", "--out", "{}/out", *CPU, *JSON),
    "profile, simulated": ("profile", "--out", "{}/out", *SIMULATED, *JSON),
    "profile --chain": ("profile", "--chain", *CPU, *JSON),
    "validate": ("validate", "--results", "{}/results", *CPU, *JSON),
    "frontier": ("frontier", "--budgets", "1", "--out", "{}/out", *SIMULATED, *JSON),
}


@pytest.mark.long
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("own", OWN)
def test_every_command_takes_every_model(own, name, folder, request):
    if own != WHOLE_FRONT:
        request.getfixturevalue("small_fronts")
    arguments = [argument.format(folder) for argument in COMMANDS[name]]
    done = bench(arguments[0], *arguments[1:], own=own, folder=folder)
    assert done.returncode == 0, done.stderr
    if arguments[0] == "run":
        lines = [records.decode(line.encode()) for line in done.stdout.splitlines()]
        assert {record.status for record in lines} == {"ok"}
        assert lines[0].parameter_bytes == OWN[own].parameter_bytes
    elif arguments[0] == "validate":
        study = validations.decode(done.stdout.encode())
        assert study.rows
        assert {row.tensor_peak_error for row in study.rows} == {0}
    elif arguments[0] == "plan":
        assert json.loads(done.stdout)["plan"] == " ".join(map(str, range(OWN[own].blocks)))
    else:
        assert json.loads(done.stdout)
    if name == "frontier" and own != WHOLE_FRONT:
        assert len(json.loads(done.stdout)["rows"]) == len(FRONT)


@pytest.mark.long
@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen3-0.6B", "google-t5/t5-small"])
def test_every_kind_of_published_model_runs_shrunk(name, folder):
    flags = ("--layers", "2", "--seq", "16", "--option", "vocab=256")
    arguments = ("run", "--model", f"hf:{name}", *flags, "--strategy", "every_layer", *JSON)
    for device in (("--no-time", *CPU), SIMULATED):
        done = command.run(*arguments, *device)
        record = records.decode(done.stdout.encode())
        assert (record.status, record.workload) == ("ok", f"hf:{name}")
        assert record.batch_bytes == 2 * 8 * 16


@pytest.mark.long
def test_a_published_model_of_images_runs_shrunk():
    images = ("run", "--model", "hf:google/vit-base-patch16-224", "--layers", "2")
    done = command.run(*images, "--strategy", "every_layer", *SIMULATED, *JSON)
    assert records.decode(done.stdout.encode()).batch_bytes == 4 * 3 * 224 * 224 + 8


@pytest.mark.long
def test_published_configurations_have_the_published_number_of_parameters():
    for name, entry in configurations.published().items():
        with torch.device("meta"):
            model = workloads.get(f"hf:{name}").make_model()
        assert sum(p.numel() for p in model.parameters()) == entry["parameter_count"], name
        assert entry["source"].startswith("https://huggingface.co/"), name
