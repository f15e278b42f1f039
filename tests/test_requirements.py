"""What is installed is pinned, and in the tests' environment each file has a hash."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCKED = re.compile(r"([\w.-]+)==([\w.!]+)(?:\+\w+)? --hash=sha256:[0-9a-f]{64}")


def pins(name):
    return [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]


def locked():
    found = [LOCKED.fullmatch(line) for line in pins("requirements.txt")]
    assert all(found), "run nox -s hashes"
    return {canonicalize_name(one[1]): one[2] for one in found}


def constraints():
    """What builds the project is pinned there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    texts = [*pins("constraints.txt"), *project["build-system"]["requires"]]
    return {canonicalize_name(name): version for name, version in (x.split("==") for x in texts)}


def test_hashes_are_of_the_pinned_versions():
    known = constraints()
    assert {name: known.get(name) for name in locked()} == locked()


def test_everything_that_the_tests_need_has_a_hash():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *extras["test"], *extras["lint"], *extras["coverage"]]
    assert {canonicalize_name(Requirement(text).name) for text in texts} <= locked().keys()


def test_every_requirement_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {k: v for k, v in project["optional-dependencies"].items() if k != "flash"}
    texts = [*project["dependencies"], *(text for some in extras.values() for text in some)]
    assert {canonicalize_name(Requirement(text).name) for text in texts} <= constraints().keys()
