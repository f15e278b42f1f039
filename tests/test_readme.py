"""The README and docs/: short, whole, and true where they can be run."""

import contextlib
import io
import re
import types
from pathlib import Path

import pytest
import torch
from torch import nn

import strategies
from bench.report import readme, summary
from strategies.contract.registry import classes

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted((ROOT / "docs").glob("*.md"))
WRITTEN = README.partition(readme.BEGIN)[0] + README.partition(readme.END)[2]
TABLE = README.partition(readme.BEGIN)[2].partition(readme.END)[0]
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)

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
    lines = [line for line in TABLE.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert [cell.strip() for cell in cells[0]] == list(summary.HEADER)
    assert 2 < len(cells) - 2 <= summary.ROWS
    assert {len(row) for row in cells} == {6}
    assert re.search(r"^cpu \(.+\); torch \d.+; \d{4}-\d\d-\d\d", TABLE, re.MULTILINE)


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


def test_every_page_is_linked_and_every_link_leads_somewhere():
    for page in PAGES:
        assert f"](docs/{page.name})" in README
    for path in (ROOT / "README.md", *PAGES, ROOT / "results" / "README.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
            assert link.startswith("http") or (path.parent / link).exists(), (path.name, link)


def test_every_strategy_is_in_the_page_of_strategies():
    text = (ROOT / "docs" / "strategies.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(classes())


def test_nothing_is_said_twice():
    sentences = []
    for text in (WRITTEN, *(page.read_text("utf-8") for page in PAGES)):
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        sentences += [s for s in re.split(r"(?<=[.:])\s+", " ".join(prose.split())) if len(s) > 60]
    assert sorted(sentences) == sorted(set(sentences))


class Block(nn.Module):
    """One of eight."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return torch.nn.functional.gelu(self.linear(x))


class Model(nn.Module):
    """Eight blocks, and an output with a loss."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(8))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return types.SimpleNamespace(loss=x.square().mean())


def small():
    """The names that the snippets use."""
    models = {name: Model() for name in ("model", "other", "third")}
    return {**models, "batch": torch.randn(4, 8), "__name__": "snippet"}


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_run_and_print_what_they_say(snippet):
    names = small() | {"strategies": strategies}
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(snippet, names)
    for said in re.findall(r"print\(.*schedule\.render.*\)  # (.*)", snippet):
        if "k=4" in snippet:
            assert said in out.getvalue()


def test_the_snippet_of_a_strategy_is_one():
    [snippet] = [one for one in SNIPPETS if "class " in one]
    names = {"__name__": "snippet"}
    exec(snippet, names)
    model = small()["model"]
    applied = strategies.apply(model, names["SecondHalf"]())
    assert applied.schedule.render() == "0 1 2 3 [4 5 6 7]"
