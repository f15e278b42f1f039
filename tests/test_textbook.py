"""The chapter, line by line: every sentence is judged by the ledger, or named with a reason."""

import re
from pathlib import Path

import pytest

from bench.report.claims import FSDP, LEDGER
from bench.report.unjudged import UNJUDGED

CHAPTER = Path(__file__).parent.parent.parent / "shared" / "textbook.md"
JUDGED = {statement.source: statement.id for statement in (*LEDGER, FSDP)}
QUOTES = [*JUDGED, *UNJUDGED]


@pytest.fixture(scope="module")
def text():
    if not CHAPTER.exists():
        pytest.skip("the chapter is not beside this repository")
    return CHAPTER.read_text()


def pieces(text):
    """Sentences and rows of tables, and every listing as a whole; headings and links aside."""
    for number, part in enumerate(re.split(r"^```.*$", text, flags=re.MULTILINE)):
        if number % 2:
            yield part.strip()
        else:
            lines = [line.strip() for line in part.splitlines()]
            yield from (
                line
                for line in lines
                if line and not line.startswith("#") and not set(line) <= set("|- ")
            )


def covered(piece):
    """Quoted in part or in whole, over one line or several."""
    return any(
        quote in piece or piece in quote.splitlines() or quote.startswith(piece) for quote in QUOTES
    )


def test_every_piece_is_judged_or_named(text):
    header = "| Strategy | Memory | Extra Compute |"
    left = [piece for piece in pieces(text) if not covered(piece) and piece != header]
    assert left == []


def test_every_quote_is_in_the_chapter(text):
    flat = " ".join(text.split())
    assert [quote for quote in QUOTES if " ".join(quote.split()) not in flat] == []


def test_nothing_is_both_judged_and_not():
    assert JUDGED.keys().isdisjoint(UNJUDGED)
    assert len({claim.id for claim in LEDGER}) == len(LEDGER)


def test_what_is_not_judged_names_claims_that_are():
    named = {name for why in UNJUDGED.values() for name in re.findall(r"`([a-z0-9-]+)`", why)}
    assert named <= {claim.id for claim in LEDGER}
