"""What ``run`` prints: a narrow table in a terminal, Markdown in a pipe, others when asked."""

import io
import sys

import pytest
from rich.console import Console
from test_report_factory import gpt_options, make

from bench.cli import printing, terminal
from bench.cli.flags import RunFormat
from bench.report.stats import centre

SHAPE = {"workload": "gpt-mini", "workload_options": gpt_options()}
TIMES = {"step_s": [1.3] * 5, "none_step_s": [1.0] * 5}
GB = 10**9
RECORDS = [
    make("none", **SHAPE, peak_allocated_bytes=700_887_300_000, grads_bitwise_equal=True),
    make(
        "every_k",
        **SHAPE,
        **TIMES,
        spec="every_k(k=2, keep_last=True)",
        plan="[0 1] [2 3] [4 5] [6 7]",
        peak_allocated_bytes=350 * GB,
        recompute_flops=4_000_000,
        grad_max_rel_err=8.7e-5,
        grads_bitwise_equal=False,
    ),
    make("sqrt", **SHAPE, status="oom", reason="7.08 GB [missing]", peak_allocated_bytes=None),
]


def printed(records, width=80):
    stream = io.StringIO()
    terminal.print_table(records, Console(file=stream, width=width))
    return stream.getvalue()


def test_units_are_those_that_a_person_reads():
    text = printed(RECORDS)
    assert "700.9 GB (1.00×)" in text
    assert "350.0 GB (0.50×)" in text
    assert "MB" not in text


def test_it_says_where_and_when_and_what_failed():
    text = printed(RECORDS)
    assert "gpt-mini on cpu (Test CPU); torch 2.13.0+cpu; 2026-01-02" in text
    assert "sqrt: oom: 7.08 GB [missing]" in text
    assert "50.0 %" in text
    assert "1.30×" in text
    assert "±9e-05" in text
    assert "bitwise" in text


def test_brackets_of_a_plan_are_no_markup():
    assert "[0 1] [2 3]" in printed(RECORDS)


def test_the_interval_stands_under_the_ratio():
    noisy = {"step_s": [1.0, 1.1, 1.3, 1.5, 1.6], "none_step_s": [1.0] * 5}
    text = printed([*RECORDS, make("recursive", **SHAPE, **noisy)])
    above, below = text.partition("recursive")[2].splitlines()[:2]
    interval = centre(tuple(noisy["step_s"]))
    assert f"{interval.estimate:.2f}× †" in above
    assert below.split()[-1] == f"{interval.low:.2f}–{interval.high:.2f}"
    assert "(95 %)" in text


def test_modelled_is_said_once_in_a_heading():
    records = [make("none", **SHAPE, device="sim:x", device_name="X", modelled=True)]
    heading, _, _ = printed(records).partition("Strategy")
    assert "gpt-mini on modelled sim:x" in heading
    assert heading.count("modelled") == 1


def test_modelled_is_said_once_in_a_heading_in_markdown(capsys):
    records = [make("none", **SHAPE, device="sim:x", device_name="X", modelled=True)]
    printing.show(records, RunFormat.md)
    _, _, table = capsys.readouterr().out.partition("## gpt-mini on sim:x\n")
    heading, _, _ = table.partition("| Strategy")
    assert heading.count("modelled sim:x (X)") == heading.count("modelled") == 1


@pytest.mark.parametrize("width", [80, 100])
def test_it_fits(width):
    long = make("selective", **SHAPE, **TIMES, spec="selective(variant=attention_core)")
    noisy = {"step_s": [10.0, 11.1, 12.3, 13.5, 14.6], "none_step_s": [1.0] * 5}
    long = [*RECORDS, long, make("flash_checkpoint", **SHAPE, **noisy)]
    lines = printed(long, width).splitlines()
    assert max(map(len, lines)) <= width
    assert any("flash_checkpoint" in line for line in lines)
    assert any("attention_core)" in line for line in lines)
    interval = centre(tuple(noisy["step_s"]))
    assert any(f"{interval.low:.1f}–{interval.high:.1f}" in line for line in lines)


def test_too_few_rounds_have_no_interval():
    few = {"step_s": [1.0, 1.1], "none_step_s": [1.0] * 2}
    above, below = printed([make("sqrt", **SHAPE, **few)]).partition("sqrt")[2].splitlines()[:2]
    assert "1.05× †" in above
    assert below.split()[-1] == "[none]"


def test_what_to_know_of_times_stands_below():
    text = printed([make("none", **SHAPE, step_s=[1.0] * 6, none_step_s=[1.0] * 6)])
    assert "A/A test: none against itself reads 1.00× [1.00, 1.00], which holds 1: passed." in (
        " ".join(text.split())
    )


def test_a_specification_is_broken_between_words_and_loses_none():
    label = "compressed(codec=projection, ratio=0.5, over=sqrt) (flash attention)"
    lines = terminal.broken(label).split("\n")
    assert "".join(lines).replace(" ", "") == label.replace(" ", "")
    assert max(map(len, lines)) <= terminal.STRATEGY
    assert terminal.broken("none") == "none"


@pytest.mark.parametrize(("tty", "says"), [(True, "700.9 GB"), (False, "| none |")])
def test_a_terminal_gets_the_narrow_table_and_a_pipe_markdown(monkeypatch, capsys, tty, says):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: tty, raising=False)
    printing.show(RECORDS, RunFormat.auto)
    out = capsys.readouterr().out
    assert says in out
    assert ("| none |" in out) is not tty


@pytest.mark.parametrize(
    ("output", "says"),
    [("md", "| none |"), ("csv", "workload,"), ("json", '{"schema'), ("table", "350.0 GB")],
)
def test_other_formats_when_asked(capsys, output, says):
    printing.show(RECORDS, RunFormat(output))
    assert says in capsys.readouterr().out
