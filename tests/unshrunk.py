"""A plugin, ``-p unshrunk``: that a test fails is enough, and no simpler example is looked for."""

import pytest
from hypothesis import Phase, settings


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    """After `conftest` chose how many examples there are."""
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("unshrunk", settings(), phases=phases)
    settings.load_profile("unshrunk")
