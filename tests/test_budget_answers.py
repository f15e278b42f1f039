"""Budgets as they are written, and answers to them, by hand."""

import dataclasses
import re

import pytest
from costs import block, chain, mode

import strategies
from strategies.schedules import budget
from strategies.schedules.interpreter import predict
from strategies.schedules.plan import plain
from strategies.schedules.schedule import Schedule
from strategies.schedules.solution import Solution

PROFILE = chain(
    block(mode(saved_bytes=60), forward_s=3.0, backward_s=5.0, last_recompute_s=2.0),
    block(mode(saved_bytes=90), forward_s=4.0, backward_s=6.0, last_recompute_s=1.0),
    fixed_s=2.0,
)
NONE, FIRST, BOTH = (Schedule(plan) for plan in ((0, 1), ((0,), 1), ((0,), (1,))))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8GB", 8 * 10**9),
        ("8GiB", 8 * 2**30),
        ("1.5 mb", 1_500_000),
        (" 64 KiB ", 65536),
        ("123456", 123456),
        ("7B", 7),
        ("50%", 0.5),
        ("37.5 %", 0.375),
        ("1", 1),
        ("1%", 0.01),
        ("0.5%", 0.005),
        ("200%", 2.0),
        ("3kB", 3_000),
        ("2TB", 2 * 10**12),
        ("2TiB", 2**41),
        ("5MiB", 5 * 2**20),
        (".5kb", 500),
        ("2.kb", 2000),
        ("1.9", 1),
    ],
)
def test_ways_to_write_a_budget(text, value):
    assert budget.parse(text) == value
    assert type(budget.parse(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "much",
        "8XB",
        "-1GB",
        "0",
        "0%",
        "8GB%",
        "1e9",
        "%",
        "GB",
        ".",
        "0.0",
        "8PB",
        "8?",
        "8 8",
    ],
)
def test_what_is_no_budget(text):
    message = f"a budget is written as 8GB, 8GiB, 123456 or 50%, not {text!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        budget.parse(text)
    with pytest.raises(ValueError, match="a budget is written as"):
        strategies.get("optimal", budget=text)


@pytest.mark.parametrize(("text", "share"), [("50%", 0.5), ("99%", 0.99), ("150%", 1.5)])
def test_a_share_is_of_what_no_plan_needs(text, share):
    assert budget.resolve(text, PROFILE) == int(share * predict(PROFILE, plain(2)).peak_bytes)


def test_bytes_are_bytes():
    assert budget.resolve("2kB", PROFILE) == 2000


def answer(schedule, bound_s):
    return budget.Answer.of(PROFILE, 500, Solution(schedule, bound_s, 7))


def test_an_answer_says_what_it_costs():
    found = answer(BOTH, 0.5)
    assert found.schedule == BOTH
    assert found.prediction == predict(PROFILE, BOTH)
    assert found.bound_s == 20 + 0.5
    assert found.gap_fraction == 23 / 20.5 - 1


def test_of_answers_the_fastest_is_taken_and_the_bound_is_that_of_all():
    slow, fast = answer(BOTH, 0.25), answer(FIRST, 1.5)
    assert budget.best([slow, fast]) == budget.best([fast, slow])
    assert budget.best([slow, fast]) == dataclasses.replace(fast, solution=Solution(FIRST, 0.25, 7))
    assert budget.best([slow]) is slow


def test_of_answers_as_fast_the_first_is_taken():
    first, other = answer(NONE, 0.0), dataclasses.replace(answer(NONE, 0.0), budget_bytes=1)
    assert budget.best([first, other]) == first


@pytest.mark.parametrize(
    ("slot_bytes", "words"),
    [(1, "to the byte"), (2, "in 2 bytes"), (0, "in 0 bytes"), (1234567, "in 1,234,567 bytes")],
)
def test_how_finely_memory_was_counted(slot_bytes, words):
    assert budget.counted(slot_bytes) == words
