"""Tables for people and for programs, the README's, and the escaping between."""

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report_factory import FLOP, UNIT, chain, gpt_options, make

from bench.report import display, growth, readme, tables
from bench.report.frame import build, rows


def lines(table):
    """Cells of a Markdown table by its rules: a backslash protects a pipe."""
    found = [line for line in table.splitlines() if line.startswith("|")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in found]


def line_of(text, label):
    found = [line for line in lines(text) if line[0] == label]
    assert len(found) == 1
    return dict(zip(tables.HEADER, found[0], strict=True))


def full(strategy, **changes):
    return make(
        strategy,
        workload="gpt-mini",
        **{"workload_options": gpt_options(), "grads_bitwise_equal": True} | changes,
    )


RECORDS = [
    full("none", peak_allocated_bytes=200_000_000, saved_after_forward_bytes=100_000_000),
    full("none", workload_options=gpt_options(attention="flash"), peak_allocated_bytes=90_000_000),
    full(
        "every_k",
        spec="every_k(k=4)",
        params={"k": 4},
        plan="[0 1 2 3] [4 5 6 7]",
        textbook_memory="O(L/k·N·d)",
        textbook_compute="~(k−1)/k · 100 %",
        predicted_peak_bytes=81_234_567,
        peak_allocated_bytes=80_000_000,
        saved_after_forward_bytes=8_000_000,
        recompute_flops=7 * FLOP,
        predicted_recompute_flops=8 * FLOP,
        step_s=[0.26] * 5,
        none_step_s=[0.2] * 5,
    ),
    full(
        "compressed",
        exact=False,
        peak_allocated_bytes=50_000_000,
        grads_bitwise_equal=False,
        grad_max_rel_err=0.00123,
        grad_min_cosine=0.99991,
        step_s=[0.3, 0.2, 0.4],
        none_step_s=[0.2, 0.2, 0.2],
    ),
    full("wrong", status="mismatch", reason="the gradient differs", grads_bitwise_equal=False),
    full("huge", status="oom", reason="out | of <memory>", peak_allocated_bytes=None),
]


def test_a_row_shows_theory_prediction_and_measurement():
    row = line_of(tables.tradeoff(build(RECORDS)), "every_k(k=4)")
    assert list(row.values()) == [
        "every_k(k=4)",
        "`[0 1 2 3] [4 5 6 7]`",
        "O(L/k·N·d)",
        "81.2",
        "80.0 (0.40×)",
        "8.00 (0.08×)",
        r"\~(k−1)/k · 100 %",
        "100.0 %",
        "87.5 %",
        "1.30× [1.30, 1.30]",
        "bitwise equal",
    ]


def test_rows_run_from_none_down_to_failures():
    found = [line[0] for line in lines(tables.tradeoff(build(RECORDS)))[2:]]
    expected = ["none", "none (flash attention)", "every_k(k=4)", "compressed", "wrong", "huge"]
    assert sorted(found) == sorted(expected)
    assert found[:2] == expected[:2]
    assert found[-1] == "huge"
    assert found.index("every_k(k=4)") < found.index("compressed")


def test_caption_says_device_version_and_date_of_the_records():
    text = tables.tradeoff(build(RECORDS))
    assert "cpu (Test CPU); torch 2.13.0+cpu; 2026-01-02." in text
    assert "MB is 10⁶ bytes" in text
    assert "cuda" not in text.lower()
    assert "modelled" not in text


def test_modelled_records_are_called_so():
    record = full("none", device="sim:h100", device_name="NVIDIA H100", modelled=True)
    frame = build([record])
    assert "## gpt-mini on sim:h100" in tables.tradeoff(frame)
    assert "modelled sim:h100 (NVIDIA H100)" in tables.tradeoff(frame)
    failed = full("none", device="sim:x", modelled=True, status="oom", reason="full")
    assert "modelled sim:x" in tables.failures(build([failed]))


def test_estimated_time_is_called_modelled():
    shape = {"device": "sim:x", "device_name": "X", "modelled": True}
    records = [full(n, modelled_step_s=t, **shape) for n, t in (("none", 0.2), ("sqrt", 0.25))]
    row = line_of(tables.tradeoff(build(records)), "sqrt")
    assert row["Step time × none [95 %]"] == "1.25× modelled"
    found = list(csv.DictReader(io.StringIO(tables.tradeoff_csv(build(records)))))
    assert [r["step_ratio"] for r in found] == ["", ""]


def test_memory_limit_is_told():
    text = tables.tradeoff(build([full("none", memory_limit_bytes=300_000_000)]))
    assert "memory limited to 300.0 MB" in text


def test_gradients_cell_by_outcome():
    text = tables.tradeoff(build(RECORDS))
    column = tables.HEADER[-1]
    assert line_of(text, "compressed")[column] == "max rel. error 1.2e-03, cosine 0.999910"
    assert line_of(text, "wrong")[column] == "**MISMATCH**: the gradient differs"
    assert line_of(text, "huge")[column] == r"**oom**: out \| of &lt;memory&gt;"
    missing = full("odd", grads_bitwise_equal=None, grads_missing=["h.0.w"])
    assert line_of(tables.tradeoff(build([missing])), "odd")[column] == "missing: h.0.w"
    unknown = full("odd", grads_bitwise_equal=None)
    assert line_of(tables.tradeoff(build([unknown])), "odd")[column] == "—"


def test_few_rounds_are_marked_unstable_and_the_mark_explained():
    text = tables.tradeoff(build(RECORDS))
    assert line_of(text, "compressed")["Step time × none [95 %]"].endswith("†")
    assert not line_of(text, "every_k(k=4)")["Step time × none [95 %]"].endswith("†")
    assert "† unstable" in text


def test_missing_values_are_dashes():
    row = line_of(tables.tradeoff(build(RECORDS)), "huge")
    assert set(list(row.values())[1:5]) == {"—"}


def test_failures_list_every_cell_that_did_not_end_well():
    found = lines(tables.failures(build(RECORDS)))[2:]
    assert [(line[2], line[6]) for line in found] == [("huge", "oom"), ("wrong", "mismatch")]
    assert found[0][7] == r"out \| of &lt;memory&gt;"
    silent = full("x", status="crash", reason=None)
    assert "no reason was recorded" in tables.failures(build([silent]))
    assert "Every cell ended well." in tables.failures(build(RECORDS[:1]))


def test_csv_is_raw_and_parses_back():
    found = list(csv.DictReader(io.StringIO(tables.tradeoff_csv(build(RECORDS)))))
    assert len(found) == len(RECORDS)
    row = next(r for r in found if r["spec"] == "every_k(k=4)")
    assert row["peak_allocated_bytes"] == "80000000"
    assert row["peak_x_none"] == "0.400000"
    assert row["rounds"] == "5"
    assert next(r for r in found if r["strategy"] == "huge")["reason"] == "out | of <memory>"


def test_depth_only_groups_are_left_to_the_depth_table():
    frame = build([*RECORDS, *chain("none"), *chain("sqrt")])
    assert "mlp-chain" not in tables.tradeoff(frame)
    text = growth.table(frame)
    assert "## mlp-chain on cpu" in text
    saved, peak = lines(text)[2:4], lines(text)[6:8]
    assert saved[0] == ["none", "—", "8.39", "16.8", "33.6", "67.1", "134.2", *["1.00 (1.000)"] * 2]
    assert saved[1][0] == "sqrt"
    assert saved[1][-1].startswith("0.5")
    # Two units of constant peak: they flatten the plain fit, and are taken out of the other.
    assert peak[0][-2] == "1.00 (1.000)"
    assert float(peak[0][-1].split()[0]) < 0.9


def test_depth_gaps_are_dashes_and_no_series_is_said():
    records = [*chain("none"), *chain("sqrt", (4, 8, 16, 32))]
    assert lines(growth.table(build(records)))[3][6] == "—"
    assert "No depth series yet." in growth.table(build(RECORDS))


def test_depth_csv_has_a_line_a_cell():
    found = list(csv.DictReader(io.StringIO(growth.csv(build(chain("none"))))))
    assert [int(r["saved_after_forward_bytes"]) for r in found] == [
        layers * UNIT for layers in (4, 8, 16, 32, 64)
    ]
    assert {r["saved_after_forward_bytes_exponent"] for r in found} == {"1.000000"}


@given(st.text())
def test_a_cell_never_breaks_its_table_or_becomes_html(text):
    for made in (display.cell(text), display.code(text)):
        assert "\n" not in made
        assert "\r" not in made
        [line] = lines(display.table([made], []).splitlines()[0])
        assert len(line) == 1
    assert "<" not in display.cell(text)


def test_code_with_a_backtick_uses_a_longer_fence():
    assert display.code("a`b|c") == r"`` a`b\|c ``"
    assert display.cell("a_b _c_ *d*") == r"a_b \_c\_ \*d\*"


@pytest.mark.parametrize("count", [1, 10, 11, 40, 200])
def test_plans_are_abbreviated_between_tokens(count):
    plan = " ".join(f"[{i} {i + 1}]" for i in range(0, 2 * count, 2))
    short = display.abbreviate(plan)
    assert len(short) <= 32 or short == plan
    if short != plan:
        head, tail = short.split(" … ")
        assert plan.startswith(head + " ")
        assert plan.endswith(" " + tail)


def test_a_blocks_mode_and_place_stay_with_it():
    plan = " ".join(f"[{i}]@host {i + 1}:core" for i in range(0, 8, 2))
    assert display.abbreviate(plan) == "[0]@host 1:core [2]@host … 7:core"


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "—"), (0, "0.00"), (12_345, "0.012"), (2_345_678, "2.35"), (1.5e9, "1,500.0")],
)
def test_megabytes(count, text):
    assert display.megabytes(count) == text


def test_looks_are_distinct_and_come_from_sorted_names():
    names = [f"s{i:02}" for i in range(40)]
    made = display.looks([*reversed(names), "none", "s00"])
    assert made == display.looks(names)
    assert len({(one.colour, one.marker) for one in made.values()}) == 41


def test_readme_holds_the_main_table_of_each_device():
    small = make("none", step_s=[1.0] * 5, none_step_s=[1.0] * 5)
    gpu = full("none", device="cuda", device_name="Test GPU")
    model = full("none", device="sim:x", device_name="X", modelled=True)
    text = readme.block(build([*RECORDS, small, gpu, model]), "results/tables")
    assert re.findall(r"^### (.*)$", text, re.MULTILINE) == ["gpt-mini on cpu", "gpt-mini on cuda"]
    assert "(results/tables/claims.md)" in text
    only = readme.block(build([model]), "t")
    assert "### gpt-mini on sim:x" in only


def test_readme_injection_replaces_what_is_between_and_nothing_else():
    before = f"# Title\n{readme.BEGIN}\nold | table\n{readme.END}\nrest\n"
    once = readme.inject(before, "new\n")
    assert once == f"# Title\n{readme.BEGIN}\n\nnew\n\n{readme.END}\nrest\n"
    assert readme.inject(once, "new\n") == once


@pytest.mark.parametrize(
    "text",
    [
        "no markers",
        readme.BEGIN,
        readme.END,
        f"{readme.END}{readme.BEGIN}",
        f"{readme.BEGIN}{readme.BEGIN}{readme.END}",
    ],
)
def test_readme_without_its_markers_is_an_error(text):
    with pytest.raises(ValueError, match="tradeoff:begin"):
        readme.inject(text, "x")


def test_every_row_has_a_label_of_its_own_in_its_table():
    labels = [row["label"] for row in rows(build(RECORDS))]
    assert len(set(labels)) == len(labels)


def test_a_block_and_its_mode_stay_together_when_a_plan_is_abbreviated():
    plan = " ".join(f"{i}:core" for i in range(12))
    assert display.abbreviate(plan) == "0:core 1:core 2:core … 11:core"


def test_a_policy_stays_in_one_piece_when_a_plan_is_abbreviated():
    plan = "0:keep(3,31) 1:keep(23,31,38) 2:keep(3,31) [3] 4 5"
    assert display.abbreviate(plan) == "0:keep(3,31) 1:keep(23,31,38) … 5"
