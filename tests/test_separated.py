"""CSV holds data: a spreadsheet calculates nothing, and a reader gets back what was written."""

import csv
import io

import pandas as pd
import pytest

from bench.report import separated


def read(frame):
    return list(csv.reader(io.StringIO(separated.csv(frame), newline="")))


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "=cmd|' /C calc'!A0",
        "+1+1",
        "-1+1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        "＝1",
        "－x",
    ],
)
def test_a_formula_stands_behind_an_apostrophe(text):
    plain = "'" + text.replace("\r", "\n")
    assert read(pd.DataFrame({"a": [text]})) == [["a"], [plain]]
    assert read(pd.DataFrame({text: [1]})) == [[plain], ["1"]]


@pytest.mark.parametrize("text", ["-1", "+0.5", "-1e-9", "every_k(k=4)", "a=b", "", " =1"])
def test_numbers_and_other_texts_stay(text):
    assert separated.neutral(text) == text


@pytest.mark.parametrize("text", ['a "b"', "a,b", "a\nb", 'x","y', "'quoted'", "√ × N"])
def test_every_text_comes_back(text):
    assert read(pd.DataFrame({"a": [text, "next"]})) == [["a"], [text], ["next"]]


@pytest.mark.parametrize("text", ["a\rb", "a\r\nb"])
def test_lines_end_in_one_way(text):
    assert read(pd.DataFrame({"a": [text, "next"]})) == [["a"], ["a\nb"], ["next"]]


def test_values_keep_their_types():
    frame = pd.DataFrame({"n": [-1, 2], "f": [-0.5, 1e-9], "o": [None, -3]}, dtype=object)
    assert read(frame) == [["n", "f", "o"], ["-1", "-0.5", ""], ["2", "1e-09", "-3"]]


def test_rows_that_are_chosen_keep_their_order():
    frame = pd.DataFrame({"a": ["x", "=y", "z"]})
    assert read(frame.iloc[[2, 1]]) == [["a"], ["z"], ["'=y"]]
