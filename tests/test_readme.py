"""The README and docs/: short, whole, and nothing twice."""

import re

import snippets
from snippets import PAGES, ROOT

import strategies
from bench.report import readme, summary
from strategies.contract.registry import classes

README = (ROOT / "README.md").read_text("utf-8")
WRITTEN = README.partition(readme.BEGIN)[0] + README.partition(readme.END)[2]
TABLE = README.partition(readme.BEGIN)[2].partition(readme.END)[0]

ORDER = (
    "Two commands",
    "The table",
    "On your own model",
    "With a budget",
    "Advice",
    "Without the accelerator",
    "Add a strategy",
    "More",
)


def test_it_is_short_and_in_order():
    assert len(WRITTEN.splitlines()) <= 150
    assert tuple(re.findall(r"^## (.*)$", WRITTEN, re.MULTILINE)) == ORDER


def test_the_table_is_narrow_and_says_where_and_when():
    tables = re.split(r"^### ", TABLE, flags=re.MULTILINE)[1:]
    assert tables
    for table in tables:  # one a device
        lines = [line for line in table.splitlines() if line.startswith("|")]
        cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
        assert [cell.strip() for cell in cells[0]] == list(summary.HEADER)
        assert 2 < len(cells) - 2 <= summary.ROWS
        assert {len(row) for row in cells} == {6}
        device = re.search(r"^(\w+) \(.+\); torch \d.+; \d{4}-\d\d-\d\d", table, re.MULTILINE)
        assert device[1] in table.splitlines()[0]


def test_each_row_of_the_textbook_has_a_sentence_of_verdict():
    text = (ROOT / "results" / "tables" / "claims.md").read_text("utf-8")
    lines = re.findall(
        r"^- \*(.+?)\*, .*: memory \*\*(\w+)\*\*.*compute \*\*(\w+)\*\*", TABLE, re.MULTILINE
    )
    assert [name for name, *_ in lines] == [
        "No checkpointing",
        "Every layer",
        "Every k layers",
        "√L checkpoints",
        "Selective (attn only)",
    ]
    ids = ("none", "every-layer", "every-k", "sqrt", "selective")
    for identifier, (_, memory, compute) in zip(ids, lines, strict=True):
        assert re.search(rf"`{identifier}-memory`.*\*\*{memory}\*\*", text)
        assert re.search(rf"`{identifier}-compute`.*\*\*{compute}\*\*", text)


def test_every_strategy_is_in_the_page_of_strategies():
    text = (ROOT / "docs" / "strategies.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(classes())


def test_nothing_is_said_twice():
    sentences = []
    for text in (WRITTEN, *(page.read_text("utf-8") for page in PAGES)):
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        sentences += [s for s in re.split(r"(?<=[.:])\s+", " ".join(prose.split())) if len(s) > 60]
    assert sorted(sentences) == sorted(set(sentences))


def test_the_snippet_of_a_strategy_is_one():
    [snippet] = [one.code for one in snippets.SNIPPETS if "class SecondHalf" in one.code]
    names = snippets.names()
    exec(snippet, names)
    model = names["model"]
    applied = strategies.apply(model, names["SecondHalf"]())
    assert applied.schedule.render() == "0 1 2 3 [4 5 6 7]"
