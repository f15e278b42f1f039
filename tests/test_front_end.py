"""pytest-benchmark as the front end: what runs, what is kept, what may be compared."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent
INFO = {"device": "cpu", "device_name": "A", "torch_version": "2.13.0", "threads": 2}


@pytest.fixture(scope="module")
def plugin():
    spec = importlib.util.spec_from_file_location("root_conftest", ROOT / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(storage, *arguments):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "bench/test_step.py"]
    command += ["--benchmark-compare"]
    command += [f"--benchmark-storage=file://{storage}", "--workload", "mlp-chain", "--rounds", "1"]
    # Of a process of several that run these tests it would not time anything.
    alone = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, env=alone, capture_output=True, text=True, check=False
    )


@pytest.mark.long
def test_first_comparison_becomes_the_baseline_of_the_next(tmp_path):
    first = run(tmp_path, "-k", "sqrt")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "this run becomes the baseline" in first.stdout
    [saved] = tmp_path.rglob("*.json")
    [benchmark] = json.loads(saved.read_text())["benchmarks"]
    assert benchmark["extra_info"]["grads_bitwise_equal"] is True
    assert benchmark["extra_info"]["peak_allocated_bytes"] > 0
    second = run(tmp_path, "-k", "sqrt")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "1 passed" in second.stdout
    assert "(NOW)" in second.stdout
    other = json.loads(saved.read_text())
    other["machine_info"]["device_name"] = "another processor"
    saved.write_text(json.dumps(other))
    third = run(tmp_path, "-k", "sqrt")
    assert third.returncode == pytest.ExitCode.USAGE_ERROR
    assert "device_name was 'another processor'" in third.stderr


@pytest.mark.parametrize("name", INFO)
def test_another_machine_is_refused_by_name(plugin, name):
    with pytest.raises(pytest.UsageError, match=f"{name} was 'other'"):
        plugin.pytest_benchmark_compare_machine_info(
            INFO, {"machine_info": {**INFO, name: "other"}}
        )


def test_the_same_machine_may_be_compared(plugin):
    plugin.pytest_benchmark_compare_machine_info(INFO, {"machine_info": {**INFO, "node": "x"}})


@pytest.mark.parametrize("option", ["benchmark_compare", "benchmark_only", "benchmark_json"])
def test_benchmarks_run_when_an_option_asks(plugin, option):
    given = {option: "x"}
    config = SimpleNamespace(getoption=lambda name, default=None: given.get(name, default))
    assert plugin.asks_for_benchmarks(config)
    given.clear()
    assert not plugin.asks_for_benchmarks(config)
