"""The command line: results on stdout and nothing else there; bad input in one sentence, exit 2."""

import csv
import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import planted
import pytest
import tiny

import bench
from bench import __main__ as cli
from bench import devices
from bench.cli import catalogue, progress
from bench.run import executor
from bench.run.blank import blank
from bench.store import records

ROOT = Path(bench.__file__).resolve().parent.parent
TINY = ("--device", "cpu", "--no-time", "--layers", "3", "--batch", "4", "--dim", "4")


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """The command line, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back at the end

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return Result(exit_.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def quick(monkeypatch):
    """Cells are described and not measured; returns those that were asked for."""
    asked = []

    def run(cell, timeout_s=None):
        asked.append(cell)
        return blank(cell, "ok")

    monkeypatch.setattr(executor, "run", run)
    return asked


# What others script against, for real: a process, its streams and its exit code.


def python(*arguments, folder, environment=None):
    done = subprocess.run(
        [sys.executable, *arguments],
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def run_of_six(tmp_path_factory):
    """One run: two good cells, one that prints, one wrong, one that dies, one that cannot run."""
    folder = tmp_path_factory.mktemp("run")
    planted.install(folder)
    specs = ["none", "every_k", "misbehaves(how=print)", "scales_gradient"]
    specs += ["misbehaves(how=abort)", "selective"]
    strategies = [part for spec in specs for part in ("--strategy", spec)]
    arguments = ["-m", "bench", "run", "--workload", "mlp-chain", *strategies, *TINY]
    arguments += ["--set", "k=20", "--format", "json"]
    environment = {"PYTHONPATH": planted.search_path(folder)}
    return python(*arguments, folder=folder, environment=environment)


def test_stdout_is_one_record_a_line_and_nothing_else(run_of_six):
    found = [records.decode(line.encode()) for line in run_of_six.out.splitlines()]
    assert [(r.strategy, r.status) for r in found] == [
        ("none", "ok"),
        ("every_k", "ok"),
        ("misbehaves", "ok"),  # what it prints is not there
        ("scales_gradient", "mismatch"),
        ("misbehaves", "crash"),
        ("selective", "unsupported"),
    ]


def test_records_have_the_keys_that_were_promised(run_of_six):
    promised = """schema_version workload strategy params device status reason exact plan
    peak_allocated_bytes saved_after_forward_bytes parameter_bytes gradient_bytes step_s
    forward_flops step_flops recompute_flops block_forwards loss grads_bitwise_equal
    grad_max_rel_err grads_missing torch_version machine_id started_at_utc"""
    for record in run_of_six.lines:
        assert set(promised.split()) <= set(record)


def test_progress_and_notes_are_on_stderr(run_of_six):
    assert "[1/6] mlp-chain L=3 none: ok" in run_of_six.err
    assert "[2/6] mlp-chain L=3 every_k(k=20): ok; k=20 exceeds the 3 blocks" in run_of_six.err
    assert "[5/6] mlp-chain L=3 misbehaves(how=abort): crash (the process" in run_of_six.err
    assert "planted last words" in run_of_six.err  # as the reason
    assert "Traceback" not in run_of_six.err


def test_a_parameter_goes_to_the_strategies_that_have_it(run_of_six):
    none, every_k, *_ = run_of_six.lines
    assert every_k["params"]["k"] == 20
    assert every_k["notes"] == ["k=20 exceeds the 3 blocks: one recompute group holds them all"]
    assert none["params"] == {}


def test_a_wrong_gradient_is_named(run_of_six):
    assert "scales_gradient: mismatch (the gradient differs: relative error" in run_of_six.err


def test_failures_are_exit_code_1(run_of_six):
    assert run_of_six.code == 1


NO_TORCH = """
import importlib.abc, runpy, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("planted: there is no torch")

sys.meta_path.insert(0, Refuse())
for arguments in (["tables", "--results", "results"],
                  ["tables", "--results", "results", "--check"],
                  ["claims", "--results", "results", "--format", "json"],
                  ["compare", "results", "results"]):
    sys.argv = ["bench", *arguments]
    try:
        runpy.run_module("bench", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
assert not [name for name in sys.modules if name.partition(".")[0] == "torch"]
"""


def test_reports_need_no_torch(tmp_path):
    for spec in ("none", "every_layer"):
        records.write(tiny.record("mlp-chain", spec), tmp_path / "results")
    result = python("-c", NO_TORCH, folder=tmp_path)
    assert result.code == 0, result.err
    assert (tmp_path / "results/tables/tradeoff.md").exists()


# run.


def run(call, *arguments, workload="mlp-chain"):
    return call("run", "--workload", workload, *TINY, *arguments)


def test_options_reach_the_cell(call, quick):
    arguments = ["--strategy", "every_k(k=2)", "--set", "keep_last=true", "--option", "seed=3"]
    arguments += ["--precision", "bf16-autocast", "--optimizer", "sgd", "--seed", "9"]
    arguments += ["--memory-limit-mb", "500", "--format", "json"]
    result = run(call, *arguments)
    assert result.code == 0
    (cell,) = quick
    assert cell.options == {"layers": 3, "batch": 4, "dim": 4, "seed": 3}
    assert cell.spec == "every_k(k=2, keep_last=True)"
    assert (cell.precision, cell.optimizer, cell.seed) == ("bf16-autocast", "sgd", 9)
    assert (cell.rounds, cell.memory_limit_bytes) == (0, 500 * 10**6)
    assert records.decode(result.out.encode()).cell_id == cell.cell_id()


def test_rounds_are_even_and_sixteen_unless_told(call, quick):
    common = ("run", "--workload", "mlp-chain", "--strategy", "none", "--device", "cpu")
    call(*common)
    for count in ("2", "5"):
        call(*common, "--rounds", count)
    assert [cell.rounds for cell in quick] == [16, 2, 6]


def test_precision_is_of_numbers_and_of_timed_steps(call, quick):
    common = ("run", "--workload", "mlp-chain", "--strategy", "none", "--device", "cpu")
    call(*common, "--precision", "2%")
    call(*common, "--precision", "bf16", "--precision", "0.5%", "--timeout", "60")
    call(*common, "--precision", "bf16")
    found = [(cell.precision, cell.interval_width, cell.rounds_limit_s) for cell in quick]
    assert found == [("fp32", 0.02, 300.0), ("bf16", 0.005, 30.0), ("bf16", None, None)]


def test_the_default_device_is_the_machines(call, quick):
    call("run", "--workload", "mlp-chain", "--strategy", "none")
    assert [cell.device for cell in quick] == [devices.default()]


@pytest.mark.parametrize("text", ["flash", '"flash"'])
def test_words_need_no_quotes(call, quick, text):
    call("run", "--workload", "gpt-mini", "--strategy", "none", "--option", f"attention={text}")
    assert quick[0].options == {"attention": "flash"}


def test_the_table_as_markdown_and_csv(call):
    strategies = ("--strategy", "none", "--strategy", "every_layer")
    markdown = run(call, *strategies)
    assert markdown.code == 0
    (row,) = [line for line in markdown.out.splitlines() if "[0] [1] [2]" in line]
    assert row.startswith("| every")
    rows = list(csv.DictReader(io.StringIO(run(call, *strategies, "--format", "csv").out)))
    assert {row["spec"] for row in rows} == {"none", "every_layer"}


def test_records_are_stored_and_reused(call, quick, tmp_path):
    arguments = ("--strategy", "none", "--results", tmp_path / "r", "--format", "json")
    first = run(call, *arguments)
    (path,) = (tmp_path / "r").rglob("*.json")
    before = path.read_bytes()
    again = run(call, *arguments)
    assert first.lines == again.lines == [json.loads(before)]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("status", "code"),
    [("ok", 0), ("oom", 0), ("unsupported", 0), ("mismatch", 1), ("crash", 1), ("timeout", 1)],
)
def test_exit_codes(call, monkeypatch, status, code):
    """Out of memory and unsupported are answers; the others are failures."""
    monkeypatch.setattr(executor, "run", lambda cell, _: blank(cell, status, "why"))
    result = run(call, "--strategy", "none", "--format", "json")
    assert (result.code, result.lines[0]["status"]) == (code, status)


# Bad input.

RUN = ("run", "--workload", "mlp-chain", "--strategy", "none")
EVERY_K = ("run", "--workload", "mlp-chain", "--strategy", "every_k")
ERRORS = [
    # arguments, what the sentence says
    (("run", "--workload", "mlp", "--strategy", "none"), "no workload 'mlp'", "mlp-chain"),
    (("run", "--workload", "mlp-chain", "--strategy", "sqr"), "did you mean 'sqrt'?", "every_k"),
    (("run", "--workload", "mlp-chain", "--strategy", "every_k(k="), "cannot read strategy"),
    ((*RUN, "--device", "abacus"), "no device 'abacus'", "it has cpu"),
    ((*EVERY_K, "--set", "k=0"), "every_k: k must be at least 1", "not 0"),
    ((*EVERY_K, "--set", "k=some"), "k must be of type int, not 'some'"),
    ((*EVERY_K, "--set", "k"), "--set takes name=value, not 'k'"),
    ((*EVERY_K, "--set", "=4"), "--set takes name=value, not '=4'"),
    ((*EVERY_K, "--set", "n=4"), "has no parameter 'n'; it has k, keep_last"),
    ((*RUN, "--set", "k=4"), "'none' has no parameter 'k'"),
    ((*RUN, "--option", "depth=4"), "no option 'depth'; it has layers, batch, dim, seed"),
    ((*RUN, "--layers", "0"), "layers must be a whole number of at least 1, not 0"),
    ((*RUN, "--seq", "8"), "'mlp-chain' has no option 'seq'"),
    ((*RUN, "--precision", "0%"), "above 0 % and at most 100 % wide, not 0 %"),
    ((*RUN, "--precision", "101%"), "above 0 % and at most 100 % wide, not 101 %"),
    ((*RUN, "--precision", "nan%"), "a percentage such as 2%, not 'nan%'"),
    ((*RUN, "--precision", "1%", "--precision", "2%"), "takes one of 1%, 2%"),
    ((*RUN, "--precision", "2%", "--no-time"), "no interval to narrow where no rounds are timed"),
    (
        ("budgets", "--workload", "mlp-chain", "--device", "cpu", "--precision", "2%"),
        "a budget study has a fixed number of rounds",
    ),
    ((*RUN, "--precision", "fp8"), "precision must be one of fp32"),
    ((*RUN, "--device", "cpu", "--precision", "fp16-gradscaler"), "needs an accelerator"),
    ((*RUN, "--optimizer", "lion"), "optimizer must be one of none, sgd, adamw"),
    ((*RUN, "--rounds", "-1"), "rounds must be at least 0, not -1"),
    ((*RUN, "--rounds", "some"), "Invalid value for '--rounds'"),
    ((*RUN, "--device", "cpu", "--memory-limit-mb", "-1"), "limit must be at least 0"),
    ((*RUN, "--format", "xml"), "'xml' is not one of 'auto', 'table', 'md', 'json', 'csv'"),
    ((*RUN, "--colour"), "No such option: --colour"),
    (("run", "--workload", "mlp-chain"), "Missing option '--strategy'"),
    (("sweep", "--suite", "slow"), "suite must be one of smoke, quick, standard", "not 'slow'"),
    (("sweep", "--device", "abacus"), "no device 'abacus'"),
    (("tables", "--check"), "results holds no raw/ folder", "bench sweep"),
    (("compare", "before.json", "after.json"), "before.json"),
    (("list", "colours"), "'strategies', 'workloads', 'devices'"),
    (("lost",), "No such command 'lost'"),
    *[
        ((*command, "--timeout", seconds), "--timeout must be more than 0 and at most 604800")
        for command in (RUN, ("sweep",), ("models",), ("budgets",))
        for seconds in ("nan", "inf", "1e12", "0", "-1")
    ],
    ((*RUN, "--seed", str(2**63)), "--seed must be within 64 bits"),
    ((*RUN, "--seed", "-1"), "seed must be at least 0, not -1"),
    ((*RUN, "--batch", str(2**63)), "--batch must be within 64 bits"),
    ((*RUN, "--batch", "9" * 60), "--batch must be within 64 bits"),
    ((*RUN, "--option", f"batch={2**63}"), "batch must be within 64 bits"),
    ((*RUN, "--layers", "٣"), "--layers takes the digits 0 to 9, not '٣'"),
    ((*RUN, "--layers=٣"), "--layers takes the digits 0 to 9, not '٣'"),
    ((*RUN, "--timeout", "٣"), "--timeout takes the digits 0 to 9, not '٣'"),
    ((*EVERY_K, "--set", "k=٣"), "k must be of type int, not '٣'"),
    ((*EVERY_K, "--set", "k=2", "--set", "k=3"), "--set gives k twice"),
    ((*EVERY_K, "--set", f"k={2**63}"), "every_k: k must be within 64 bits"),
    ((*RUN, "--strategy", "every_k(k=2, k=3)"), "gives k twice"),
    ((*RUN, "--strategy", "every_k(k=" + "(" * 500), "cannot read strategy"),
    ((*RUN, "--option", "batch=1", "--option", "batch=2"), "--option gives batch twice"),
    ((*RUN, "--batch", "1", "--option", "batch=1"), "batch is given twice: by --batch and by"),
    (("validate", "--device", "sim:h100-80gb"), "a real device with its simulation, not sim:h1"),
    (("claims",), "results holds no raw/ folder"),
    ((*RUN, "--results", __file__), "nothing can be stored in", "File exists"),
    ((*RUN, "--results", f"{__file__}/results"), "nothing can be stored in", "Not a directory"),
    (("sweep", "--suite", "smoke", "--results", __file__), "nothing can be stored in"),
    (("models", "--only", "gpt2", "--results", __file__), "nothing can be stored in"),
    (("solvers", "--results", __file__), "nothing can be stored in"),
    (("plan", "--workload", "mlp-chain", "--budget", "٥٠%"), "a budget is written as 8GB"),
]


@pytest.mark.parametrize(("arguments", "says"), [(a, s) for a, *s in ERRORS], ids=str)
def test_bad_input_is_one_sentence_and_exit_code_2(call, quick, arguments, says):
    result = call(*arguments)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    for text in says:
        assert text in result.err
    assert quick == []  # refused before the first cell


def test_a_missing_accelerator_names_what_there_is(call, monkeypatch):
    monkeypatch.setattr(devices, "available", lambda: {"cpu": "a processor"})
    result = call(*RUN, "--device", "cuda")
    assert (result.code, result.out) == (2, "")
    assert "no device 'cuda'; it has cpu (a processor)" in result.err


def test_a_bad_limit_is_refused(call, tmp_path):
    path = records.write(tiny.record("mlp-chain"), tmp_path)
    result = call("compare", path, path, "--fail-on", "beauty:1%")
    assert (result.code, result.out) == (2, "")
    assert "beauty" in result.err
    assert "peak_allocated_bytes" in result.err


def test_no_command_shows_the_commands(call):
    result = call()
    assert result.code == 2
    assert "compare" in result.out
    assert result.err == ""


def test_an_interrupt_says_how_to_go_on(call, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(catalogue, "device_rows", interrupt)
    result = call("list", "devices")
    assert (result.code, result.out) == (130, "")
    assert result.err == "interrupted; run the same command again to resume\n"


def test_a_bug_is_not_hidden(call, monkeypatch):
    monkeypatch.setattr(catalogue, "device_rows", lambda: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["bench", "list", "devices"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


# list.


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("strategies", {"none", "every_layer", "every_k", "sqrt", "selective", "compressed"}),
        ("workloads", {"mlp-chain", "gpt-mini", "gpt2-small", "llama-mini", "vit-b16", "resnet50"}),
        ("devices", {"cpu"}),
        ("models", {"hf:gpt2", "hf:meta-llama/Llama-3.1-8B"}),
    ],
)
def test_lists_in_every_format(call, kind, names):
    as_json = call("list", kind, "--format", "json")
    assert as_json.code == 0
    assert names <= {row["name"] for row in as_json.json}
    rows = list(csv.DictReader(io.StringIO(call("list", kind, "--format", "csv").out)))
    assert [row["name"] for row in rows] == [row["name"] for row in as_json.json]
    lines = call("list", kind).out.splitlines()
    assert len(lines) == len(rows) + 2
    assert {line.count("|") - line.count("\\|") for line in lines} == {len(rows[0]) + 1}


def test_listed_strategies_have_parameters_and_a_grid(call):
    rows = {row["name"]: row for row in call("list", "strategies", "--format", "json").json}
    assert rows["every_k"]["parameters"] == {"k": 4, "keep_last": False}
    assert rows["every_k"]["grid"] == ["every_k(k=2)", "every_k(k=4)", "every_k(k=8)"]
    assert all(row["summary"] for row in rows.values())


def test_one_device_is_the_default(call):
    rows = call("list", "devices", "--format", "json").json
    assert [row["name"] for row in rows if row["default"]] == [devices.default()]


# claims, tables, compare: their contents have tests of their own.


def test_claims_as_json_and_csv(call, tmp_path):
    (tmp_path / "results" / "raw").mkdir(parents=True)
    as_json = call("claims", "--format", "json")
    assert as_json.code == 0
    verdicts = as_json.json
    assert len(verdicts) >= 6
    assert len(list(csv.DictReader(io.StringIO(call("claims", "--format", "csv").out)))) >= 6


def test_tables_are_written_then_fresh_then_stale(call, tmp_path):
    results = tmp_path / "results"
    for spec in ("none", "every_layer"):
        records.write(tiny.record("mlp-chain", spec), results)
    assert call("tables").code == 0
    assert call("tables", "--check").code == 0
    table = results / "tables" / "tradeoff.md"
    table.write_text(table.read_text() + "edited\n")
    stale = call("tables", "--check")
    assert stale.code == 1
    assert "-edited" in stale.out
    assert "edited" in table.read_text()  # checking changes nothing


def test_compare_fails_on_a_regression(call, tmp_path):
    before = records.write(tiny.record("mlp-chain", "every_layer"), tmp_path / "before")
    after = tmp_path / "after.json"
    data = json.loads(before.read_bytes())
    data["peak_allocated_bytes"] += 1000
    assert data.pop("checksum")
    after.write_text(json.dumps(data))
    limit = ("--fail-on", "peak_allocated_bytes:1%")
    assert call("compare", before, before, *limit).code == 0
    assert call("compare", before, after).code == 0
    assert call("compare", before, after, *limit).code == 1


def test_compare_that_cannot_tell_is_no_pass(call, tmp_path):
    before = tmp_path / "before.json"
    data = json.loads(records.encode(tiny.record("mlp-chain", "every_layer")))
    del data["checksum"]
    data |= {"step_s": [1.0, 2.0] * 4, "none_step_s": [1.0] * 8}
    before.write_text(json.dumps(data))
    assert call("compare", before, before).code == 0
    result = call("compare", before, before, "--fail-on", "step_ratio:5%")
    assert result.code == 3
    assert "## Cannot tell" in result.out


# Progress.


def test_a_line_a_cell(capsys):
    cell = tiny.cell("gpt-mini", "every_layer", {"attention": "flash"})
    progress.print_line(3, 7, blank(cell, "oom", "too large"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "[3/7] gpt-mini L=6 flash every_layer: oom (too large)\n"


def test_outside_a_terminal_there_is_no_bar(capsys):
    with progress.reporter(1) as report:
        report(1, 1, blank(tiny.cell("mlp-chain"), "ok"))
    assert capsys.readouterr().err == "[1/1] mlp-chain L=6 none: ok\n"


def test_in_a_terminal_there_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.reporter(2) as report:
        report(2, 2, blank(tiny.cell("mlp-chain"), "ok"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2/2" in captured.err
    assert "mlp-chain L=6 none" in captured.err
