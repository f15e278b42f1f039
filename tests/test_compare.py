"""Two sets of records: what matches, what is refused, and what fails the gate."""

import re
from collections import Counter
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report_factory import make, options

from bench.report.compare import compare, load
from bench.report.gate import GATED, Regression, judge, parse
from bench.store import parts, records

PEAK = "peak_allocated_bytes"


@pytest.fixture
def write(tmp_path):
    def write(name, *found):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(records.encode_line(record) + "\n" for record in found))
        return path

    return write


def timed(ratios, **changes):
    return make("sqrt", step_s=list(ratios), none_step_s=[1.0] * len(ratios), **changes)


def gate(write, before, after, *limits):
    return compare(write("a", before), write("b", after), limits)


@pytest.mark.parametrize(
    ("limit", "before", "after", "fails"),
    [
        ("peak_allocated_bytes:1%", 1000, 1010, False),
        ("peak_allocated_bytes:1%", 1000, 1011, True),
        ("peak_allocated_bytes:1%", 1000, 500, False),
        ("peak_allocated_bytes:0%", 1000, 1001, True),
        ("peak_allocated_bytes:1MB", 0, 1_000_000, False),
        ("peak_allocated_bytes:1MB", 0, 1_000_001, True),
        ("peak_allocated_bytes:1.5kB", 0, 1501, True),
        ("peak_allocated_bytes:10%", 0, 1, True),
    ],
)
def test_byte_limits(write, limit, before, after, fails):
    sides = (make("sqrt", peak_allocated_bytes=n) for n in (before, after))
    found = gate(write, *sides, limit)
    assert bool(found.regressions) == fails
    if fails:
        assert found.regressions[0].metric == PEAK
        assert limit in found.regressions[0].reason


def test_a_metric_that_should_be_high_fails_when_it_falls(write):
    sides = [make("sqrt", grad_min_cosine=value) for value in (0.99, 0.95)]
    assert gate(write, *sides, "grad_min_cosine:0.01").regressions
    assert not gate(write, *sides[::-1], "grad_min_cosine:0.01").regressions


@given(hundredths=st.integers(1, 10**15), percent=st.integers(1, 300))
def test_exactly_the_limit_passes_and_a_byte_more_does_not(hundredths, percent):
    limit, before = parse(f"{PEAK}:{percent}%"), 100 * hundredths
    allowed = before + percent * hundredths
    assert not limit.exceeded(before, allowed)
    assert limit.exceeded(before, allowed + 1)


def noisy(draws, noise, slowdown=0.0, rounds=16):
    """A record of which each step, of `none` too, has so much noise."""
    steps, none = (1 + noise * draws.standard_normal(rounds) for _ in range(2))
    return make("sqrt", step_s=(1.3 * (1 + slowdown) * steps).tolist(), none_step_s=none.tolist())


def verdicts(noise, slowdown, limit, pairs=200, rounds=16):
    draws = np.random.default_rng(15)
    kinds = Counter()
    for _ in range(pairs):
        sides = noisy(draws, noise, rounds=rounds), noisy(draws, noise, slowdown, rounds)
        kinds[type(judge(parse(limit), "cell", *sides))] += 1
    return kinds


@pytest.mark.parametrize("limit", ["step_ratio:5%", "step_ratio:10%"])
def test_a_slowdown_of_a_tenth_at_two_percent_of_noise_is_caught(limit):
    assert verdicts(0.02, 0.1, limit)[Regression] >= 190


@pytest.mark.parametrize("limit", ["step_ratio:5%", "step_ratio:10%"])
def test_equal_steps_pass(limit):
    assert verdicts(0.02, 0.0, limit)[type(None)] >= 198


def test_of_equal_steps_hardly_any_is_called_slower_whatever_the_limit():
    assert verdicts(0.02, 0.0, "step_ratio:0%", pairs=400)[Regression] <= 4


@pytest.mark.parametrize("rounds", [4, 5, 6, 9])
def test_a_slowdown_that_noise_hides_is_never_passed_over_in_silence(rounds):
    assert verdicts(0.1, 0.2, "step_ratio:10%", rounds=rounds)[type(None)] <= 4


def test_a_doubt_says_what_could_have_been_detected_and_how_many_rounds_would_tell(write):
    draws = np.random.default_rng(1)
    before, after = noisy(draws, 0.1), noisy(draws, 0.1)
    found = gate(write, before, after, "step_ratio:5%")
    [doubt] = found.doubts
    assert found.regressions == ()
    said = re.search(r"could have detected \+([\d.]+) %.*about (\d+) rounds", doubt.reason)
    assert float(said[1]) > 5
    assert int(said[2]) > 16
    assert int(said[2]) % 2 == 0
    assert "## Cannot tell" in found.markdown()
    more = noisy(draws, 0.1, rounds=int(said[2]) * 2), noisy(draws, 0.1, rounds=int(said[2]) * 2)
    assert gate(write, *more, "step_ratio:5%").doubts == ()


def test_step_time_fails_only_beyond_threshold_and_noise(write):
    before = timed([1.30, 1.31, 1.29, 1.30, 1.30])
    slower = timed([1.60, 1.61, 1.59, 1.60, 1.60])
    little = timed([1.33, 1.34, 1.33, 1.33, 1.34])
    wild = timed([1.28, 1.60, 1.29, 1.61, 1.60])
    assert gate(write, before, slower, "step_ratio:10%").regressions
    assert not gate(write, before, little, "step_ratio:10%").regressions  # apart, but within 10 %
    assert gate(write, before, little, "step_ratio:1%").regressions
    assert gate(write, before, little, "step_ratio:0.001").regressions
    doubtful = gate(write, before, wild, "step_ratio:10%")
    assert (doubtful.regressions, len(doubtful.doubts)) == ((), 1)
    better = gate(write, slower, before, "step_ratio:10%")
    assert (better.regressions, better.doubts) == ((), ())


def test_too_few_rounds_cannot_tell(write):
    found = gate(write, timed([1.3] * 3), timed([1.6] * 3), "step_ratio:10%")
    assert found.regressions == ()
    assert "too few rounds for an interval: +23.1 % from 3 and 3 rounds" in found.doubts[0].reason


@pytest.mark.parametrize("status", [s for s in get_args(parts.Status) if s != "ok"])
def test_a_cell_that_no_longer_ends_well_is_a_regression(write, status):
    broken = make("sqrt", status=status, reason="it | broke")
    found = gate(write, make("sqrt"), broken, f"{PEAK}:99%")
    assert [r.metric for r in found.regressions] == ["status"]
    assert f"ok → {status}: it | broke" in found.regressions[0].reason
    assert "it \\| broke" in found.markdown()
    assert gate(write, make("sqrt"), broken).regressions == ()


def test_a_cell_that_failed_before_breaks_nothing(write):
    fine, broken = make("none"), make("sqrt", status="oom", reason="full")
    for after in (make("sqrt"), broken):
        found = compare(write("a", fine, broken), write("b", fine, after), [f"{PEAK}:0%"])
        assert found.regressions == ()


def test_a_metric_no_longer_measured_is_a_regression(write):
    found = gate(write, timed([1.3] * 5), make("sqrt"), "step_ratio:10%")
    assert "now it is not" in found.regressions[0].reason


def test_a_gate_with_nothing_to_hold_against_is_an_error(write):
    with pytest.raises(ValueError, match="no cell in common"):
        gate(write, make("none"), make("sqrt"), f"{PEAK}:1%")
    with pytest.raises(ValueError, match="has no step_ratio"):
        gate(write, make("sqrt"), make("sqrt"), "step_ratio:10%")
    assert gate(write, make("none"), make("sqrt")).pairs == ()


@pytest.mark.parametrize(
    "change",
    [
        {"workload": "gpt-mini"},
        {"workload_options": options(batch=1)},
        {"strategy": "none"},
        {"params": {"k": 8}},
        {"precision": "bf16-autocast"},
        {"optimizer": "adamw"},
        {"memory_limit_bytes": 1},
    ],
)
def test_cells_match_by_all_that_makes_them_the_same_question(write, change):
    found = gate(write, make("sqrt"), make(**{"strategy": "sqrt"} | change))
    assert (len(found.pairs), len(found.only_a), len(found.only_b)) == (0, 1, 1)
    assert "## Only in A" in found.markdown()
    assert "## Only in B" in found.markdown()


def test_versions_and_machines_may_differ_with_a_note(write):
    after = make("sqrt", torch_version="2.14.1", machine_id="m2", code_hash="new")
    found = gate(write, make("sqrt"), after)
    assert len(found.pairs) == 1
    assert found.notes == (
        "different torch versions: 2.13.0+cpu in A, 2.14.1 in B",
        "different machines: m1 in A, m2 in B",
    )
    assert "> **Note:** different torch versions" in found.markdown()
    assert gate(write, make("sqrt"), make("sqrt")).notes == ()


@pytest.mark.parametrize(
    "change", [{"device": "cuda"}, {"device_name": "Other CPU"}, {"modelled": True}]
)
def test_different_devices_are_refused(write, change):
    with pytest.raises(ValueError, match="different devices are no comparison"):
        gate(write, make("sqrt"), make("sqrt", **change))


def test_odd_rounds_are_noted(write):
    found = gate(write, timed([1.3] * 7), timed([1.3] * 8))
    assert len(found.notes) == 1
    assert found.notes[0].startswith("An odd number of rounds (7)")


def test_one_device_in_common_is_compared_and_the_other_listed(write):
    both = (make("sqrt"), make("sqrt", device="cuda", device_name="GPU"))
    found = compare(write("a", *both), write("b", both[0]))
    assert (len(found.pairs), len(found.only_a)) == (1, 1)


def test_the_latest_record_of_a_cell_counts(write):
    old = make("sqrt", started_at_utc="2026-01-01", peak_allocated_bytes=1)
    new = make("sqrt", started_at_utc="2026-01-02", peak_allocated_bytes=2)
    for order in ((old, new), (new, old)):
        [(_, before, _)] = compare(write("a", *order), write("b", new)).pairs
        assert before == new


def test_files_folders_and_lines_read_alike_and_are_left_alone(tmp_path, write):
    found = [make("none"), make("sqrt")]
    paths = [records.write(record, tmp_path / "results") for record in found]
    lines = write("lines", *found)
    (tmp_path / "results" / "tables").mkdir()
    (tmp_path / "results" / "tables" / "claims.json").write_text("[]")
    for path in (lines, tmp_path / "results", tmp_path / "results" / "raw"):
        assert sorted(r.strategy for r in load(path)) == ["none", "sqrt"]
    assert load(paths[0]) == found[:1]
    one = write("one", found[0])
    assert load(one) == found[:1]


@pytest.mark.parametrize("data", ["", "{", "[]", '{"schema_version": 1}', "no json\nat all\n"])
def test_bad_files_are_named_and_left_alone(tmp_path, data):
    path = tmp_path / "bad.json"
    path.write_text(data)
    for place in (path, tmp_path):
        with pytest.raises(ValueError, match=r"bad\.json"):
            compare(place, place)
    assert path.read_text() == data
    assert [p.name for p in tmp_path.iterdir()] == ["bad.json"]


def test_a_bad_line_is_named_by_number(write, tmp_path):
    path = write("x", make("none"))
    path.write_text(path.read_text() + "\n{torn\n")
    with pytest.raises(ValueError, match=r"x\.jsonl, line 3: not a record"):
        load(path)


def test_nothing_there_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere: No such file"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no records there"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("peak", "peak_allocated_bytes:1%"),
        ("speed:1%", "with a metric of .*step_ratio"),
        ("peak_x_none:1%", "with a metric of"),
        ("step_ratio", "write metric:threshold"),
        ("step_ratio:", "not like 1%"),
        ("step_ratio:fast", "not like 1%"),
        ("step_ratio:-1%", "not like 1%"),
        ("step_ratio:1MB", "step_ratio takes % or no unit"),
        ("peak_allocated_bytes:5", "takes B, kB, MB, GB or %"),
        ("step_ratio:1e999", "too large"),
    ],
)
def test_bad_limits_say_what_is_valid(write, text, match):
    with pytest.raises(ValueError, match=match):
        gate(write, make("sqrt"), make("sqrt"), text)


@given(name=st.sampled_from(sorted(GATED)), part=st.floats(0, 10), value=st.floats(1e-6, 1e12))
def test_a_relative_limit_never_fails_on_no_change_or_on_better(name, part, value):
    limit = parse(f"{name}:{part * 100:.6f}%")
    better = value * (2 if limit.metric.better == "higher" else 0.5)
    assert not limit.exceeded(value, value)
    assert not limit.exceeded(value, better)


def test_markdown_shows_changes_with_units_and_failures(write):
    before = make("sqrt", peak_allocated_bytes=10_000_000, saved_after_forward_bytes=None)
    after = make("sqrt", peak_allocated_bytes=11_000_000)
    text = gate(write, before, after, f"{PEAK}:1%").markdown()
    assert "| ok | 10.0 MB → 11.0 MB (+10.0 %) | — → 16.8 MB |" in text
    assert "## Regressions" in text
    assert "1e+07 before, 1.1e+07 now; the limit is peak_allocated_bytes:1%" in text
    assert "MB is 10⁶ bytes" in text
