"""How many rounds are timed, and what else went on meanwhile. No test here waits."""

import contextlib
import math

import numpy as np
import pytest
import tiny
import torch
from test_report_factory import make

from bench.cells.cell import Cell
from bench.measure import surroundings
from bench.measure.surroundings import Reading, between
from bench.report import ranks, tables, trust
from bench.report.frame import build, groups
from bench.report.stats import paired_ratio
from bench.run import rounds
from bench.run.rounds import missing
from bench.simulate import calibrate

CPU = torch.device("cpu")


def cell(width=0.02, **fields):
    return Cell(workload="mlp-chain", spec="none", interval_width=width, **fields)


def noisy(count, noise, seed=1):
    draws = np.random.default_rng(seed)
    return [np.exp(noise * draws.standard_normal(count)).tolist() for _ in range(2)]


def test_without_a_wish_no_round_follows():
    assert missing(cell(None), *noisy(4, 0.5), 1.0) == 0


def test_rounds_follow_until_the_interval_is_narrow():
    assert missing(cell(0.02), *noisy(16, 0.001), 1.0) == 0
    some = missing(cell(0.02), *noisy(16, 0.02), 1.0)
    assert some in range(2, 17, 2)
    assert missing(cell(0.02), *noisy(16, 0.2), 1.0) == 16  # no more than there were
    assert missing(cell(0.02), *noisy(2, 0.001), 1.0) == 2  # two have no interval


def test_rounds_end_with_the_time_and_at_the_most(monkeypatch):
    monkeypatch.setattr(rounds, "MOST_ROUNDS", 60)
    steps = noisy(16, 0.2)
    assert missing(cell(rounds_limit_s=10.0), *steps, 8.0) == 4  # half a second a round
    assert missing(cell(rounds_limit_s=10.0), *steps, 9.9) == 0
    assert missing(cell(rounds_limit_s=10.0), *steps, 11.0) == 0
    assert missing(cell(), *noisy(55, 3.0), 1.0) == 4
    assert missing(cell(), *noisy(60, 3.0), 1.0) == 0


def test_an_interval_that_rounds_were_added_for_covers_what_it_says():
    """Ending where it happens to be narrow costs a little: 94 % of 4,000 samples, for 95."""
    draws = np.random.default_rng(11)
    covered, samples = 0, 400
    for _ in range(samples):
        ratios, more = np.ones(0), 16
        while more:
            ratios = np.append(ratios, np.exp(0.028 * draws.standard_normal(more)))
            more = missing(cell(0.02), ratios.tolist(), [1.0] * len(ratios), 1.0)
        _, low, high = ranks.one_sample(np.log(ratios), ranks.LEVEL)
        assert math.exp(high) - math.exp(low) <= 0.0203
        covered += low <= 0 <= high
    assert 0.92 < covered / samples < 0.98


def test_rounds_are_timed_until_it_is_enough(monkeypatch):
    """The wish is stored with the seconds, and rounds stay even."""
    asked = iter([6, 2, 0])
    monkeypatch.setattr(rounds, "missing", lambda *_: next(asked))

    @contextlib.contextmanager
    def switch():
        yield lambda: None

    times, seen = rounds.timed(cell(0.5, rounds=4, warmup=1), switch, switch, CPU)
    assert [len(times.step_s), len(times.none_step_s), len(times.warmup_step_s)] == [12, 12, 1]
    assert times.interval_width == 0.5
    assert seen.other_cpu_share is None or 0 <= seen.other_cpu_share <= 1


def test_whoever_is_beaten_leaves_and_the_others_go_on(monkeypatch):
    steps = {"none": 1.0, "ours": 1.0, "slow": 1.5, "close": 1.0}
    draws = np.random.default_rng(3)

    def interleave(playing, count, _):
        noise = {name: np.exp(0.02 * draws.standard_normal(count)) for name in playing}
        return {name: (steps[name] * noise[name]).tolist() for name in playing}

    monkeypatch.setattr(rounds, "interleave", interleave)
    pairs = [("ours", "slow"), ("ours", "close"), ("ours", "ours")]
    asked = rounds.Asked({"none"}, pairs)
    seconds = rounds.contested(dict.fromkeys(steps), asked, cell(rounds=8), CPU)
    counts = {name: len(taken) for name, taken in seconds.items()}
    assert counts["slow"] == 8
    assert counts["close"] == counts["ours"] == counts["none"] > 8
    assert counts["ours"] % 2 == 0
    assert paired_ratio(seconds["ours"], seconds["close"]).width <= 0.02
    fixed = rounds.contested(dict.fromkeys(steps), asked, cell(None, rounds=4), CPU)
    assert {len(taken) for taken in fixed.values()} == {4}


def test_a_record_has_the_wish_and_the_surroundings(monkeypatch):
    monkeypatch.setattr(calibrate, "modelled_cpu_step_s", lambda _: None)  # takes seconds
    record = tiny.measure("mlp-chain", rounds=4, warmup=0, interval_width=1.0, rounds_limit_s=1.0)
    assert record.interval_width == 1.0
    assert record.load_average >= 0
    assert 0 <= record.other_cpu_share <= 1
    untimed = tiny.record("mlp-chain")
    assert (untimed.interval_width, untimed.load_average) == (None, None)


# Surroundings.


def reading(total, idle, own, stolen=0.0, throttled=None, thermal=None):
    return Reading(total, idle, stolen, own, throttled, thermal)


def test_shares_are_of_all_processors():
    seen = between(reading(100, 50, 10, 2, 1.5, 7), reading(140, 60, 20, 6, 4.0, 9))
    # 40 s of processors: 10 idle, 4 stolen, 10 our own, so 16 of others.
    assert seen.other_cpu_share == pytest.approx(0.4)
    assert seen.stolen_cpu_share == pytest.approx(0.1)
    assert (seen.throttled_s, seen.thermal_throttles) == (2.5, 2)


def test_what_a_system_does_not_say_is_none():
    silent = Reading(10, 5, None, 1, None, None)
    seen = between(silent, silent)
    assert (seen.other_cpu_share, seen.stolen_cpu_share) == (None, None)
    assert (seen.throttled_s, seen.thermal_throttles) == (None, None)


def test_ticks_of_the_clock_make_no_share_below_nothing():
    assert between(reading(0, 0, 0), reading(1, 0.9, 0.2)).other_cpu_share == 0


def test_governors_and_quotas_are_read(tmp_path, monkeypatch):
    for number, name in enumerate(("performance", "powersave", "performance")):
        folder = tmp_path / f"cpu{number}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{name}\n")
    assert surroundings.governor(tmp_path) == "performance, powersave"
    assert surroundings.governor(tmp_path / "cpu0") is None
    second, first = tmp_path / "second", tmp_path / "first"
    first.write_text("nr_throttled 3\nthrottled_time 2500000000\n")
    assert surroundings.throttled_s([second, first]) == 2.5
    second.write_text("usage_usec 9\nthrottled_usec 1500000\n")
    assert surroundings.throttled_s([second, first]) == 1.5
    assert surroundings.throttled_s([tmp_path]) is None


# What is said of it.


def timed(ratios, strategy="none", **changes):
    return make(strategy, step_s=list(ratios), none_step_s=[1.0] * len(ratios), **changes)


def said(*records):
    [group] = groups(build(records))
    return trust.remarks(group)


EVEN = [0.99, 1.01, 1.0, 1.005, 0.995, 1.002]


def test_equal_contenders_are_tested():
    [passed] = said(timed(EVEN))
    assert passed.startswith("A/A test: none against itself reads 1.00×")
    assert passed.endswith("which holds 1: passed.")
    [failed] = said(timed([ratio - 0.05 for ratio in EVEN]))
    assert "does not hold 1: failed, as 1 in 20 does by chance" in failed
    assert said(timed(EVEN, "sqrt")) == []
    flash = timed(EVEN, workload_options={"attention": "flash"})
    assert said(flash) == []


def test_old_records_say_that_their_rounds_are_few_and_odd():
    few = said(timed([1.0, 1.01, 0.99, 1.02, 0.98], "sqrt"))
    assert few[0].startswith("An odd number of rounds (5): of two equal contenders")
    assert few[1].startswith("Fewer than 6 rounds (5): the interval supposes normal noise")
    assert said(make("sqrt")) == []
    table = tables.tradeoff(build([timed([1.0, 1.01, 0.99, 1.02, 0.98], "sqrt")]))
    assert "rounds 5. An odd number of rounds (5)" in table


def test_an_interval_that_was_not_reached_is_said_with_what_it_would_need():
    [sentence] = said(timed([0.9, 1.1] * 8, "sqrt", interval_width=0.02))
    assert sentence.startswith("sqrt: an interval of 2.0 % was asked for; after 16 rounds it is ")
    assert "This machine cannot in the time there was: it would need about" in sentence
    assert said(timed([1.0] * 16, "sqrt", interval_width=0.02)) == []
    [none] = said(timed([1.0, 1.0], "sqrt", interval_width=0.02))
    assert none == "sqrt: an interval of 2.0 % was asked for, and 2 rounds have none."


def test_a_busy_or_throttled_machine_is_said():
    busy = timed(EVEN, "sqrt", other_cpu_share=0.42, throttled_s=0.5)
    assert said(busy) == [
        "Other processes took up to 42 % of the processors.",
        "The processors were throttled under sqrt.",
    ]
    assert said(timed(EVEN, "sqrt", other_cpu_share=0.05, throttled_s=0.0)) == []
