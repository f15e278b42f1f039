"""The hash of a record's code: it changes with all that decides, and with nothing else."""

import dataclasses
import importlib
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

import strategies
from bench import workloads
from bench.cells import machine, sources

LOADED = """
import json, sys
from pathlib import Path
import msgspec
from bench.cells.cell import Cell, checked
from bench.run.executor import measure_cell
for workload, spec, device, rounds in json.loads(sys.argv[1]):
    sizes = {"layers": 4, "dim": 16, "batch": 2}
    cell = checked(Cell(workload=workload, options=sizes, spec=spec, device=device, rounds=rounds))
    record = msgspec.json.decode(measure_cell(msgspec.json.encode(cell)))
    assert record["status"] in ("ok", "oom"), record
root = Path.cwd()
files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
inside = [Path(file) for file in files if file and Path(file).is_relative_to(root)]
print(json.dumps(sorted({path.relative_to(root).as_posix() for path in inside})))
"""


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A copy of the source tree that may be changed."""
    for folder in ("bench", "strategies"):
        shutil.copytree(machine.ROOT / folder, tmp_path / folder)  # byte code with its files' times
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    yield tmp_path
    sources._digest.cache_clear()


def code_hash(spec, workload="gpt-mini"):
    sources._digest.cache_clear()
    return sources.code_hash(strategies.get(spec), workloads.get(workload))


def test_the_same_code_has_the_same_hash(source):
    assert code_hash("sqrt") == code_hash("sqrt")
    assert re.fullmatch("[0-9a-f]{12}", code_hash("sqrt"))


def looked_up(path):
    """Workloads are all loaded, to be chosen from by name."""
    return path.startswith("bench/workloads/")


def own_files(spec, workload):
    """Of the reference, of the strategy and what it is laid over, and of the workload."""
    chosen = [strategies.get("none"), strategies.get(spec)]
    while hasattr(chosen[-1], "below"):
        chosen.append(chosen[-1].below())
    owners = [*map(type, chosen), type(workloads.get(workload))]
    return {owner.__module__.replace(".", "/") + ".py" for owner in owners}


@pytest.mark.parametrize(
    ("workload", "spec", "device", "rounds"),
    [
        pytest.param(
            *("mlp-chain", "offload(over=optimal(budget='100%'))", "cpu", 1),
            marks=pytest.mark.long,
        ),
        ("gpt-mini", "selective_ops(budget='95%')", "cpu", 0),
        pytest.param(
            *("gpt-mini", "hybrid(budget='95%')", "sim:h100-80gb", 0),
            marks=pytest.mark.long,
        ),
    ],
)
def test_every_file_that_a_measurement_loads_is_hashed(source, workload, spec, device, rounds):
    """Edited one by one in a copy; of strategies and workloads, those of this cell."""
    own = own_files(spec, workload)
    for path in (source / "strategies").glob("*.py"):  # of others nothing is needed
        if path.name != "__init__.py" and path.relative_to(source).as_posix() not in own:
            path.unlink()
    script, cells = source / "loaded.py", json.dumps([(workload, spec, device, rounds)])
    script.write_text(LOADED)
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), cells],
        cwd=source,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    loaded = set(json.loads(done.stdout.splitlines()[-1])) - {"loaded.py"}
    decisive = {path for path in loaded if not looked_up(path)} | own
    assert {"bench/run/executor.py", "bench/cells/cell.py"} <= decisive
    assert any(path.startswith("strategies/solvers/") for path in decisive)
    assert "strategies/execution/met.py" in decisive
    decisive.add("bench/devices/catalogue.json")
    before = code_hash(spec, workload)
    for path in sorted(decisive):
        text = (source / path).read_bytes()
        (source / path).write_bytes(text + b"\n")
        assert code_hash(spec, workload) != before, path
        (source / path).write_bytes(text)
    assert code_hash(spec, workload) == before


@pytest.mark.parametrize(
    "path",
    [
        *("bench/report/tables.py", "bench/report/claims.py", "bench/cli/measure.py"),
        *("bench/run/sweep.py", "strategies/every_k.py", "bench/workloads/vit.py"),
        "strategies/solvers/milp.py",
    ],
)
def test_what_no_such_measurement_runs_through_is_not(source, path):
    before = code_hash("sqrt")
    (source / path).write_text("")
    assert code_hash("sqrt") == before


def test_imports_inside_functions_and_of_imports_count(source):
    (source / "strategies/schedules/late.py").write_text("")
    chain = source / "strategies/execution/chain.py"
    late = "def late():\n    from strategies.schedules import late\n    return late\n"
    chain.write_text(chain.read_text() + "\n\n" + late)
    before = code_hash("sqrt")
    (source / "strategies/schedules/late.py").write_text("CHANGED = True\n")
    assert code_hash("sqrt") != before


def test_a_new_strategy_or_workload_makes_no_old_record_stale(source):
    before = code_hash("sqrt")
    (source / "strategies/new.py").write_text("")
    (source / "bench/workloads/new.py").write_text("WORKLOADS = ()\n")
    assert code_hash("sqrt") == before


def test_strategies_differ_by_their_own_files():
    hashes = [code_hash(name) for name in strategies.available()]
    assert len(set(hashes)) == len(hashes)
    assert code_hash("every_k(k=2)") == code_hash("every_k(k=8)")
    assert code_hash("sqrt", "gpt-mini") != code_hash("sqrt", "vit-mini")


def test_a_layered_strategy_has_the_code_of_what_is_below(source):
    spec = "offload(over=compressed(over=sqrt))"
    before = code_hash(spec)
    for name in ("offload", "compressed", "sqrt"):
        path = source / "strategies" / f"{name}.py"
        text = path.read_text()
        path.write_text(text + "\n")
        assert code_hash(spec) != before
        path.write_text(text)


def test_the_code_of_anothers_strategy_is_hashed_with_what_it_imports(tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/__init__.py").write_text("")
    (tmp_path / "theirs/helper.py").write_text("SIZE = 1\n")
    (tmp_path / "theirs/plan.py").write_text(
        "import dataclasses\nfrom strategies import Strategy\nfrom theirs import helper\n\n\n"
        "@dataclasses.dataclass(frozen=True, kw_only=True)\nclass Theirs(Strategy):\n"
        f'    """Theirs {dataclasses.__name__}."""\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    theirs = importlib.import_module("theirs.plan").Theirs()

    def hashed():
        sources._digest.cache_clear()
        return sources.code_hash(theirs, workloads.get("gpt-mini"))

    before = hashed()
    (tmp_path / "theirs/helper.py").write_text("SIZE = 2\n")
    assert hashed() != before
