"""Code in README and docs/: where it stands, how Python is run, and how shell lines are read."""

import contextlib
import dataclasses
import io
import itertools
import re
import shlex
import types
from pathlib import Path

import torch
from markdown_it import MarkdownIt
from torch import nn
from torch.nn import functional as F

import strategies

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = (ROOT / "README.md", *PAGES, ROOT / "results" / "README.md")
LONG = "<!-- test: long -->"
WORDS, WIDTH = 32, 8


@dataclasses.dataclass(frozen=True)
class Snippet:
    """One fenced block."""

    page: str
    line: int
    language: str
    code: str
    long: bool

    def __str__(self):
        return f"{self.page}:{self.line}"


def snippets_of(path, text=None):
    """Every fenced or indented block of a page, in order."""
    tokens = MarkdownIt().parse(path.read_text("utf-8") if text is None else text)
    before = [None, *tokens]
    name = path.relative_to(ROOT).as_posix()
    for token, last in zip(tokens, before, strict=False):
        if token.type in ("fence", "code_block"):
            long = last is not None and last.type == "html_block" and last.content.strip() == LONG
            yield Snippet(name, token.map[0] + 1, token.info.strip(), token.content, long)


SNIPPETS = [snippet for path in TEXTS for snippet in snippets_of(path)]


class Block(nn.Module):
    """Attention and a feed-forward part."""

    def __init__(self):
        super().__init__()
        self.attn, self.mlp = Attention(), nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU())

    def forward(self, x):
        x = x + self.attn(x)
        return x + self.mlp(x)


class Attention(nn.Module):
    """One head; its kernel can be chosen."""

    def __init__(self):
        super().__init__()
        self.qkv, self.kernel = nn.Linear(WIDTH, 3 * WIDTH), "math"

    def forward(self, x):
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v).squeeze(1)


class Model(nn.Module):
    """Eight blocks, and an output with a loss."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.h = nn.ModuleList(Block() for _ in range(8))
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.h:
            x = block(x)
        logits = self.head(x)
        loss = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        return types.SimpleNamespace(loss=loss, logits=logits)


def names():
    """What a snippet may use without saying where it is from."""
    models = {name: Model() for name in ("model", "other", "third")}
    batch = torch.randint(WORDS, (4, 8))
    return {
        "__name__": "snippet",
        **models,
        "batch": batch,
        "build": Model,
        "device": "cpu",
        "loader": torch.utils.data.DataLoader(batch.repeat(2, 1), batch_size=4),
        "nn": nn,
        "optimizer": torch.optim.AdamW(models["model"].parameters()),
        "strategies": strategies,
        "torch": torch,
    }


def run(code):
    """What a snippet prints."""
    given, out = names(), io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, given)
    return out.getvalue()


def commands_of(code):
    """The command lines of a transcript, without comments, each as its words."""
    for line in re.sub(r"\\\n", " ", code).splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            yield words[: words.index("&&")]
            words = words[words.index("&&") + 1 :]
        if words:
            yield words


def problem_of(words, group, sessions):
    """Why a command line cannot be typed; ``None`` if it can.

    Args:
        words: of the line.
        group: the command line of the bench.
        sessions: of nox.
    """
    if words[:3] == ["python", "-m", "bench"]:
        return _problem_of_bench(words[3:], group)
    if words[0] == "nox":
        named = [word for word in words[1 : [*words, "--"].index("--")] if word[0] != "-"]
        unknown = set(named) - sessions
        return f"no session {unknown}" if unknown else None
    known = words[:3] == ["python", "-m", "pip"] or words[0] in ("pytest", "torchrun", ".ci/run")
    return None if known else "an unknown program"


def _problem_of_bench(words, group):
    command = group.commands.get(words[0])
    if command is None:
        return f"no command {words[0]}"
    flags = {flag for option in command.params for flag in option.opts}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    needed = [option.opts for option in command.params if option.required]
    missing = {o[0] for o in needed if o[0].startswith("--") and not given.intersection(o)}
    if given - flags or missing:
        return f"no flag {given - flags}" if given - flags else f"needs {missing}"
    return _problem_of_strategies(words)


def _problem_of_strategies(words):
    for flag, value in itertools.pairwise(words):
        if flag == "--strategy":
            try:
                strategies.get(value)
            except ValueError as error:
                return str(error)
    return None
