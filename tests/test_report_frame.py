"""Records to rows: which record counts, and what it is compared with."""

import pandas as pd
import pytest
from test_report_factory import FLOP, UNIT, chain, gpt_options, make, options

from bench.report.depth import series
from bench.report.frame import build, groups, rows
from bench.report.metrics import METRICS


def row_of(records, **wanted):
    found = [r for r in rows(build(records)) if all(r[k] == v for k, v in wanted.items())]
    assert len(found) == 1
    return found[0]


def test_metrics_of_a_row():
    records = [
        make("none", peak_allocated_bytes=1000, saved_after_forward_bytes=800),
        make(
            "sqrt",
            peak_allocated_bytes=400,
            saved_after_forward_bytes=200,
            predicted_peak_bytes=440,
            predicted_saved_after_forward_bytes=100,
            recompute_flops=6 * FLOP,
            predicted_recompute_flops=8 * FLOP,
            step_flops=30 * FLOP,
            step_s=[0.3] * 5,
            none_step_s=[0.2] * 5,
        ),
    ]
    row = row_of(records, strategy="sqrt")
    assert row["peak_x_none"] == row["peak_x_reference"] == 0.4
    assert row["saved_x_none"] == row["saved_x_reference"] == 0.25
    assert row["recompute_of_forward"] == 0.75
    assert row["recompute_of_step"] == 0.25
    assert row["step_ratio"] == pytest.approx(1.5)
    assert row["predicted_peak_error"] == pytest.approx(0.1)
    assert row["predicted_saved_error"] == -0.5
    assert row["predicted_recompute_error"] == 0.25
    assert row["rounds"] == 5
    assert row["unstable"] is False


def test_missing_values_are_none_and_whole_numbers_stay_whole():
    records = [make("none"), make("sqrt", status="oom", reason="full", peak_allocated_bytes=None)]
    failed, fine = row_of(records, strategy="sqrt"), row_of(records, strategy="none")
    for name in ("peak_allocated_bytes", "peak_x_none", "step_ratio", "unstable", "plan"):
        assert failed[name] is None
    assert fine["peak_allocated_bytes"] == make().peak_allocated_bytes
    assert isinstance(fine["peak_allocated_bytes"], int)


@pytest.mark.parametrize(
    "change",
    [
        {"workload_options": options(batch=4)},
        {"device": "cuda"},
        {"device_name": "Other CPU"},
        {"machine_id": "m2"},
        {"precision": "bf16-autocast"},
        {"optimizer": "adamw"},
        {"torch_version": "2.12.0"},
        {"threads": 1},
        {"modelled": True},
        {"status": "oom"},
    ],
)
def test_none_of_another_setting_is_no_reference(change):
    records = [make("none", cell_id="a", **change), make("sqrt", cell_id="b")]
    assert row_of(records, strategy="sqrt")["peak_x_none"] is None


def test_flash_rows_share_a_table_and_compare_with_math():
    records = [
        make("none", workload_options=gpt_options(), peak_allocated_bytes=100),
        make("none", workload_options=gpt_options(attention="flash"), peak_allocated_bytes=60),
        make("sqrt", workload_options=gpt_options(attention="flash"), peak_allocated_bytes=30),
    ]
    assert len(groups(build(records))) == 1
    flash = row_of(records, label="sqrt (flash attention)")
    assert flash["peak_x_none"] == 0.5
    assert flash["peak_x_reference"] == 0.3
    assert row_of(records, label="none (flash attention)")["peak_x_reference"] == 0.6


def test_without_math_none_the_reference_is_its_own():
    shape = gpt_options(attention="flash")
    records = [
        make("none", workload_options=shape, peak_allocated_bytes=60),
        make("sqrt", workload_options=shape, peak_allocated_bytes=30),
    ]
    assert row_of(records, strategy="sqrt")["peak_x_reference"] == 0.5


def test_latest_record_of_a_cell_counts():
    old = make("sqrt", cell_id="x", started_at_utc="2026-01-01T00:00:00Z", peak_allocated_bytes=1)
    new = make("sqrt", cell_id="x", started_at_utc="2026-01-03T00:00:00Z", peak_allocated_bytes=3)
    for order in ([old, new], [new, old]):
        assert row_of(order, strategy="sqrt")["peak_allocated_bytes"] == 3


def test_same_question_newer_code_wins_then_a_timed_run():
    timed = {"step_s": [1.0] * 5, "none_step_s": [1.0] * 5}
    stale = make("sqrt", cell_id="a", code_hash="old", started_at_utc="2026-01-01", **timed)
    good = make("sqrt", cell_id="b", code_hash="new", started_at_utc="2026-01-02", **timed)
    untimed = make("sqrt", cell_id="c", code_hash="new", started_at_utc="2026-01-03")
    assert row_of([stale, good, untimed], strategy="sqrt")["cell_id"] == "b"
    assert row_of([stale, untimed], strategy="sqrt")["cell_id"] == "c"


def test_two_machines_keep_their_records():
    records = [make("none", cell_id="x", machine_id=name) for name in ("m1", "m2")]
    assert len(build(records)) == 2


def test_failed_cells_have_no_step_ratio_even_with_half_a_round():
    record = make("sqrt", status="timeout", step_s=[1.0, 2.0], none_step_s=[1.0])
    assert row_of([record], strategy="sqrt")["step_ratio"] is None


def test_unpairable_rounds_name_the_cell():
    with pytest.raises(ValueError, match=r"cell x1 \(sqrt\): 2 rounds"):
        build([make("sqrt", cell_id="x1", step_s=[1.0, 2.0], none_step_s=[1.0])])


def test_order_does_not_depend_on_the_order_of_records():
    records = [*chain("none"), *chain("sqrt"), make("offload")]
    pd.testing.assert_frame_equal(build(records), build(records[::-1]))


def test_series_need_four_depths_that_ended_well():
    fine = list(chain("none", (4, 8, 16)))
    assert series(build(fine)) == []
    failed = make("none", workload_options=options(layers=32), status="oom", reason="full")
    assert series(build([*fine, failed])) == []
    [one] = series(build([*fine, *chain("none", (32,))]))
    assert one.layers == (4, 8, 16, 32)
    assert one.fit("saved_after_forward_bytes").exponent == pytest.approx(1)


def test_series_keep_other_options_apart():
    wide = chain("none", (4, 8), workload_options=options(dim=512))
    assert series(build([*chain("none", (16, 32)), *wide])) == []


def test_growth_is_above_the_constant_part_of_none():
    none = chain("none", growth=lambda layers: layers + 6)
    sqrt = chain("sqrt", growth=lambda layers: layers**0.5 + 6)
    small = chain("offload", growth=lambda layers: layers / 64 + 5)
    by_name = {one.first["label"]: one for one in series(build([*none, *sqrt, *small]))}
    for name, exponent in (("none", 1), ("sqrt", 0.5)):
        fit = by_name[name].growth("saved_after_forward_bytes")
        assert fit.exponent == pytest.approx(exponent, abs=0.01)
        assert fit.constant == pytest.approx(6 * UNIT, rel=0.01)
        assert by_name[name].fit("saved_after_forward_bytes").exponent < exponent - 0.1
    low = by_name["offload"]  # never above the constant: there is nothing to subtract from
    assert low.growth("saved_after_forward_bytes") == low.fit("saved_after_forward_bytes")


def test_growth_without_none_is_the_plain_fit():
    [one] = series(build(chain("sqrt", growth=lambda layers: layers + 6)))
    assert one.constant("saved_after_forward_bytes") == 0
    assert one.growth("saved_after_forward_bytes") == one.fit("saved_after_forward_bytes")


def test_series_fit_needs_four_measured_points():
    records = list(chain("none"))
    [one] = series(build(records))
    assert one.fit("peak_allocated_bytes").points == 5
    assert one.fit("peak_reserved_bytes") is None
    assert one.at(7) is None


def test_registry_describes_every_metric():
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.description
    assert build([]).empty
