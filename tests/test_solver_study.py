"""What solvers cost: measured, stored strictly, shown in a table and a figure."""

import re
from pathlib import Path

import msgspec
import pytest
from test_report_factory import make

from bench.__main__ import main
from bench.report import readme as readmes
from bench.report import solvers
from bench.report.regenerate import regenerate
from bench.store import records
from bench.store import solvers as solver_records
from bench.store.solvers import Study, Timing
from bench.studies import solvers as solver_study
from bench.studies import synthetic
from strategies.schedules.interpreter import predict
from strategies.schedules.plan import plain
from strategies.solvers import optimal


def timing(solver="optimal", blocks=4, **changes):
    fields = {
        "slots": 500 if solver == "optimal" else None,
        "default_slots": False,
        "solve_s": [0.003, 0.001, 0.002],
        "gap_fraction": 0.0123,
    }
    return Timing(solver=solver, blocks=blocks, **fields | changes)


def made_up(**changes):
    fields = {
        "seed": 0,
        "modes": 2,
        "budget_fraction": 0.5,
        "timings": [
            timing("milp", 4, solve_s=[1.5], gap_fraction=0.0),
            timing(blocks=4),
            timing(blocks=1000, slots=100, default_slots=True, solve_s=[31.25], gap_fraction=None),
        ],
        "compile_s": 4.5,
        "torch_version": "2.13.0",
        "python_version": "3.11.2",
        "numba_version": "0.68.1",
        "highspy_version": "1.16.0",
        "machine_id": "m1",
        "machine": {"processor": "Test CPU", "cores": 2},
        "commit": "0" * 40,
        "dirty": False,
        "started_at_utc": "2026-01-02T03:04:05Z",
        "duration_s": 60.0,
    }
    return Study(**fields | changes)


# Measured.


def test_every_case_is_timed_anew(monkeypatch):
    monkeypatch.setattr(solver_study, "compile_time_s", lambda: 1.0)  # a second's work, as below
    optimal.solve.cache_clear()
    found = solver_study.study(most_blocks=4)
    asked = [(t.solver, t.blocks, t.slots, t.default_slots) for t in found.timings]
    default = optimal.slots_for(synthetic.chain(4))
    assert asked == [
        ("optimal", 4, 500, False),
        ("optimal", 4, default, True),
        ("milp", 4, None, False),
    ]
    assert all(len(t.solve_s) == solver_study.MOST_REPEATS for t in found.timings)
    assert all(second > 0 for t in found.timings for second in t.solve_s)
    assert found.timings[2].gap_fraction == pytest.approx(0, abs=1e-6)
    assert optimal.solve.cache_info().currsize == 0  # no repeat came from memory
    assert solver_records.decode(solver_records.encode(found)) == found


@pytest.mark.long
def test_compiling_is_timed_in_a_process_that_finds_nothing_compiled():
    assert solver_study.compile_time_s() > 0


def test_chains_are_seeded_and_begin_alike():
    assert synthetic.chain(8, 1) == synthetic.chain(8, 1)
    assert synthetic.chain(8, 1) != synthetic.chain(8, 2)
    assert synthetic.chain(8, 1).blocks == synthetic.chain(12, 1).blocks[:8]
    assert len(set(synthetic.chain(8).blocks)) == 8


@pytest.mark.parametrize("blocks", [4, 32])
def test_the_budget_is_one_that_something_fits_into(blocks):
    profile = synthetic.chain(blocks)
    none = predict(profile, plain(blocks)).peak_bytes
    assert optimal.solve(profile, int(solver_study.BUDGET_FRACTION * none), 100) is not None


def test_no_case_is_refused():
    with pytest.raises(ValueError, match="the shortest chain has 4 blocks"):
        solver_study.study(most_blocks=3)


def test_the_command_refuses_in_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", "solvers", "--most-blocks", "3"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: the shortest chain has 4 blocks\n"


# Stored.


def test_round_trip(tmp_path):
    path = solver_records.write(made_up(), tmp_path)
    assert path == tmp_path / "solvers" / "m1.json"
    assert list(solver_records.read_all(tmp_path)) == [made_up()]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"more": 1}, "not a study of solvers"),
        ({"timings": [{"solver": "abacus"}]}, "not a study of solvers"),
    ],
)
def test_what_it_does_not_understand_is_refused_and_set_aside(change, sentence, tmp_path):
    path = solver_records.write(made_up(), tmp_path)
    path.write_bytes(msgspec.json.encode(msgspec.to_builtins(made_up()) | change))
    with pytest.raises(ValueError, match=sentence):
        solver_records.decode(path.read_bytes())
    with pytest.warns(UserWarning, match="set aside"):
        assert list(solver_records.read_all(tmp_path)) == []
    assert path.with_name("m1.json.set-aside").exists()


def test_a_newer_schema_is_refused_and_left_alone(tmp_path):
    path = solver_records.write(made_up(), tmp_path)
    newer = msgspec.json.encode(msgspec.to_builtins(made_up()) | {"schema_version": 2})
    path.write_bytes(newer)
    with pytest.raises(ValueError, match=r"m1\.json: schema version 2; this program reads 1"):
        list(solver_records.read_all(tmp_path))
    assert path.read_bytes() == newer


def test_results_readme_documents_every_field_in_order():
    text = (Path(__file__).parent.parent / "results" / "README.md").read_text("utf-8")
    section = text.partition("## One study of solvers")[2].partition("\n## ")[0]
    names = re.findall(r"^\| `(\w+)` \| .+ \|$", section, re.MULTILINE)
    assert names == [*Study.__struct_fields__, *Timing.__struct_fields__]


# Shown.


def test_the_table():
    text = solvers.table([made_up()])
    assert "## cpu (Test CPU), 2 cores" in text
    assert "torch 2.13.0, numba 0.68.1, highspy 1.16.0; 2026-01-02; seed 0; 2 modes a block" in text
    assert "compiled once in 4.50 s" in text
    assert [line for line in text.splitlines() if line.startswith(("| opt", "| milp"))] == [
        "| optimal, 500 slots | 4 | 500 | 0.00200 | 0.00100 | 0.00300 | 3 | 1.23 % |",
        "| optimal, default slots | 1,000 | 100 | 31.2 | 31.2 | 31.2 | 1 | — |",
        "| milp, to the byte | 4 | — | 1.50 | 1.50 | 1.50 | 1 | 0.00 % |",
    ]


@pytest.mark.long
def test_regenerated_with_a_study_and_without(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"{readmes.BEGIN}\n{readmes.END}\n", "utf-8")
    records.write(make(), tmp_path / "results")
    regenerate(tmp_path / "results", readme)
    made = [tmp_path / "results" / name for name in ("tables/solvers.md", "figures/solvers.png")]
    assert not any(path.exists() for path in made)
    assert "solvers.md" not in readme.read_text("utf-8")

    stored = solver_records.write(made_up(), tmp_path / "results")
    regenerate(tmp_path / "results", readme)
    first = [path.read_bytes() for path in made]
    assert "[what solvers cost](results/tables/solvers.md)" in readme.read_text("utf-8")
    assert regenerate(tmp_path / "results", readme, check=True) == []
    for path in made:
        path.unlink()
    regenerate(tmp_path / "results", readme)
    assert [path.read_bytes() for path in made] == first

    stored.write_text("{}")
    assert "not a study of solvers" in regenerate(tmp_path / "results", readme, check=True)[0]
    assert stored.exists()
    stored.unlink()
    regenerate(tmp_path / "results", readme)
    assert not any(path.exists() for path in made)
