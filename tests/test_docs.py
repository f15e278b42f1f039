"""README, docs/ and the site: code runs, commands exist, links lead somewhere."""

import ast
import itertools
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import snippets
import torch.distributed as dist
import typer
from markdown_it import MarkdownIt
from snippets import PAGES, ROOT, SNIPPETS, TEXTS, run

from bench.__main__ import app

LANGUAGES = {"python", "sh", "text", "toml"}
MARKED = [pytest.param(one, marks=pytest.mark.long) if one.long else one for one in SNIPPETS]
PYTHON = [one for one in MARKED if getattr(one, "language", "python") == "python"]
SHELL = [one for one in SNIPPETS if one.language == "sh"]
SESSIONS = {
    node.name
    for node in ast.parse((ROOT / "noxfile.py").read_text()).body
    if isinstance(node, ast.FunctionDef) and "nox.session" in ast.unparse(node.decorator_list)
}


@pytest.fixture
def alone():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:transformers",
    "ignore::FutureWarning:transformers",
    "ignore:`isinstance.treespec, LeafSpec.`:FutureWarning",  # lightning asks torch in the old way
    "ignore:The 'train_dataloader' does not have many workers:UserWarning",
    "ignore:'pin_memory' argument is set as true but no accelerator:UserWarning",
)
@pytest.mark.parametrize("snippet", PYTHON, ids=str)
def test_python_runs_and_prints_what_it_says(snippet, request, tmp_path, monkeypatch):
    if re.search("[Dd]istributed", snippet.code):
        request.getfixturevalue("alone")
    monkeypatch.chdir(tmp_path)
    printed = run(snippet.code)
    for said in re.findall(r"^ *print\(.*\)  # (?!such as)(.*)$", snippet.code, re.MULTILINE):
        assert fits(said, printed), (said, printed)


def fits(said, printed):
    """Whether what a comment says is in what was printed; ``…`` stands for anything."""
    parts = [re.escape(part) for part in said.split("…")]
    return re.search(".*".join(parts), printed) is not None


@pytest.mark.parametrize("snippet", SNIPPETS, ids=str)
def test_code_is_marked(snippet):
    assert snippet.language in LANGUAGES


@pytest.mark.parametrize("snippet", SHELL, ids=str)
def test_commands_exist(snippet):
    group = typer.main.get_command(app)
    for words in snippets.commands_of(snippet.code):
        assert snippets.problem_of(words, group, SESSIONS) is None, words


def test_every_command_is_shown_once_at_least():
    lines = [words for one in SHELL for words in snippets.commands_of(one.code)]
    shown = {words[3] for words in lines if words[:3] == ["python", "-m", "bench"]}
    assert shown == set(typer.main.get_command(app).commands)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("python -m bench run --workload gpt-mini --strategy sqrt", None),
        ("python -m bench run --workload gpt-mini", "needs {'--strategy'}"),
        ("python -m bench run --workload gpt-mini --strategy wrong", "unknown strategy"),
        ("python -m bench run --no-such-flag 3", "no flag"),
        ("python -m bench dance", "no command"),
        ("nox -s lint types -- --long", None),
        ("nox -s lint dance", "no session"),
        ("rm -rf /", "an unknown program"),
    ],
)
def test_what_is_no_command_is_found(line, problem):
    [words] = snippets.commands_of(f"{line}  # comment\n")
    found = snippets.problem_of(words, typer.main.get_command(app), SESSIONS)
    assert found is None if problem is None else problem in found


def test_a_block_that_takes_long_is_marked_in_front():
    text = f"{snippets.LONG}\n```python\na\n```\n\n```sh\nb\n```\n"
    first, second = snippets.snippets_of(ROOT / "README.md", text)
    assert (first.long, first.language, first.code) == (True, "python", "a\n")
    assert (second.long, second.language, second.line) == (False, "sh", 6)


# Links.


def inline(path):
    """Every inline token of a page."""
    for token in MarkdownIt().enable("table").parse(path.read_text("utf-8")):
        yield from token.children or ()


def links_of(path):
    for token in inline(path):
        target = token.attrGet("href") or token.attrGet("src")
        if target:
            yield str(target)


def anchors_of(path):
    """As GitHub and the site make them of headings."""
    tokens = MarkdownIt().parse(path.read_text("utf-8"))
    for token, following in itertools.pairwise(tokens):
        if token.type == "heading_open":
            text = "".join(child.content for child in following.children).lower()
            yield re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(path):
    for link in links_of(path):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", link
            assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), link
            continue
        target = (path.parent / parts.path) if parts.path else path
        assert target.exists(), link
        assert not parts.fragment or parts.fragment in anchors_of(target), link


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path not in reached and path.suffix == ".md":
            reached.add(path)
            links = (urlsplit(link) for link in links_of(path))
            waiting += [
                Path((path.parent / link.path).resolve())
                for link in links
                if link.path and not link.scheme
            ]
    assert set(PAGES) <= reached


def test_pictures_say_what_they_show():
    for path in TEXTS:
        images = [token for token in inline(path) if token.type == "image"]
        assert all(len(image.content) > 10 for image in images), path
