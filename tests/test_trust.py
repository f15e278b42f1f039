"""The page about faults says what the tests inject."""

import pytest
import trust
from effort import few


def test_the_page_is_fresh():
    assert trust.PAGE.read_text() == trust.text(), "run python tests/trust.py"


@pytest.mark.parametrize("one", few(range(6), 2))
@pytest.mark.parametrize("other", [1, 2, 3])
def sample(one, other): ...


@pytest.mark.long
@pytest.mark.parametrize("one", range(4))
def long_sample(one): ...


def test_cases_are_counted():
    assert trust.counts(sample) == (18, 6)
    assert trust.counts(long_sample) == (4, 0)
    assert trust.counts(test_cases_are_counted) == (1, 1)
