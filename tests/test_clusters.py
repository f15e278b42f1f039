"""``python -m bench clusters``: its study, the table and figure of it, and the textbook's claim."""

from __future__ import annotations

import re
from pathlib import Path

import command
import msgspec
import pytest

from bench.report import claims, clusters
from bench.report.frame import build
from bench.store import clusters as store
from bench.store.clusters import Rank, Study
from bench.studies import clusters as bench

ROOT = Path(__file__).parent.parent
GB = 10**9
PROVENANCE = {
    "seed": 0,
    "torch_version": "2.13.0",
    "python_version": "3.11",
    "machine_id": "here",
    "machine": {},
    "commit": None,
    "dirty": None,
    "started_at_utc": "2026-11-26T00:00:00+00:00",
    "duration_s": None,
}


def rank(workload, ranks, spec, size_gb):
    return Rank(
        workload=workload,
        workload_options={"seq": 2048, "batch": ranks},
        ranks=ranks,
        spec=spec,
        fits=size_gb <= 80,
        peak_allocated_bytes=size_gb * GB,
        reserved_bytes=size_gb * GB,
        peak_by_category={"saved tensors": size_gb * GB},
        modelled_step_s=2.0,
        modelled_communication_s=1.0,
        modelled_exposed_s=0.5,
    )


def study(*points, **changes):
    fields = {
        "device": "sim:h100-80gb",
        "device_name": "H100",
        "memory_bytes": 80 * GB,
        "precision": "fp32",
        "optimizer": "adamw",
        "parallel": "fsdp2(mixed=true)",
        "points": list(points),
    }
    return Study(**PROVENANCE, **{**fields, **changes})


SMALL = (rank("small", 8, "none", 90), rank("small", 64, "none", 70))
SMALL_HELPED = (rank("small", 8, "every_layer", 50), rank("small", 64, "every_layer", 40))
LARGE = (rank("large", 8, "none", 300), rank("large", 64, "none", 200))
LARGE_HELPED = (rank("large", 8, "every_layer", 150), rank("large", 64, "every_layer", 60))


@pytest.mark.parametrize(
    ("points", "outcome", "sentence"),
    [
        ((), "unmeasured", "python -m bench clusters"),
        (
            (*SMALL, *SMALL_HELPED),
            "confirmed",
            "fits from 64 ranks, with checkpointing from 8",
        ),
        (
            (*LARGE, *LARGE_HELPED),
            "refuted",
            "alone needs 200 GB a rank even on 64; with checkpointing it fits from 64",
        ),
        ((*SMALL, *LARGE, *LARGE_HELPED), "refined", "small, 2,048 tokens: FSDP alone fits from"),
        (LARGE, "unmeasured", "No study"),
    ],
)
def test_the_claim_is_judged_by_where_fsdp_alone_fits(points, outcome, sentence):
    judged = clusters.verdict([study(*points)])
    assert judged.verdict == outcome
    assert sentence in judged.evidence


def test_the_claim_stands_in_the_ledger():
    [(claim, judged)] = [
        pair for pair in claims.judge(build([]), [study(*SMALL)]) if pair[0].id == "fsdp-sufficient"
    ]
    assert (claim.source, judged.verdict) == (claims.FSDP.source, "confirmed")
    assert "| `fsdp-sufficient` |" in claims.markdown(build([]), [study(*SMALL)])


def test_the_table_has_a_line_a_rank_and_says_what_does_not_fit():
    text = clusters.markdown([study(*SMALL_HELPED, *SMALL)])
    lines = [line for line in text.splitlines() if line.startswith("| small")]
    assert len(lines) == 4
    assert lines[1] == (
        "| small, 2,048 tokens | 8 | `none` | 90.0 | **no** | saved tensors 90.0 GB | 2.00 | 25 % |"
    )
    assert len(clusters.csv([study(*SMALL)]).splitlines()) == 3


def test_the_figure_has_a_panel_a_strategy_and_a_line_a_model():
    figure = clusters.figure([study(*SMALL, *SMALL_HELPED, *LARGE, *LARGE_HELPED)])
    assert len(figure.axes) == 2
    drawn = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    named = {line.get_label(): list(line.get_ydata()) for line in drawn}
    assert named["large, 2,048 tokens"] == [300, 200]
    assert named["small, 2,048 tokens"] == [90, 70]


def test_senseless_studies_are_refused():
    data = msgspec.to_builtins(study(rank("small", 8, "none", 70), memory_bytes=10 * GB))
    with pytest.raises(ValueError, match="70000000000 bytes fit into 10000000000"):
        store.decode(msgspec.json.encode(data))


def test_results_readme_documents_every_field_in_order():
    text = (ROOT / "results" / "README.md").read_text("utf-8")
    section = text.partition("## One study of clusters")[2].partition("\n## ")[0]
    names = re.findall(r"^\| `(\w+)` \| .+ \|$", section, re.MULTILINE)
    assert names == [name for part in (Study, Rank) for name in part.__struct_fields__]


def test_what_is_known_is_not_simulated_again(monkeypatch):
    monkeypatch.setattr(bench, "simulate", lambda cell: pytest.fail(f"simulated {cell}"))
    known = []
    for cell in bench.cells("sim:h100-80gb", (8,)):
        one = rank(cell.workload, 8, cell.spec, 10)
        options = cell.make_workload().options()
        known.append(msgspec.structs.replace(one, workload_options=options))
    found = list(bench.studies("sim:h100-80gb", (8,), known, pytest.fail))
    assert [one.points for one in found] == [known] * len(known)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--ranks", "1"), "a cluster has at least 2 ranks, not 1"),
        (("--device", "sim:l4-24gb"), "knows no link between devices for sim:l4-24gb"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(given, sentence, tmp_path):
    done = command.run("clusters", "--results", str(tmp_path), *given)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert not list(tmp_path.iterdir())
