"""Automation: ``nox -s bench`` measures, ``nox -s tests`` tests; ``nox -l`` lists the rest."""

import json
import os
import re
from pathlib import Path

import nox

nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True
nox.options.sessions = ["lint", "types", "tests"]  # what answers soonest comes first
# Nothing is compiled to byte code when it is installed: where Python may not write any, as in many
# images of containers, each of hundreds of processes would compile PyTorch anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

CONSTRAINTS = Path("constraints.txt")
REQUIREMENTS = Path("requirements.txt")
HASHED = ("test", "transformers", "train", "slurm", "lint", "coverage")
# All that tables, figures and comparisons are made with: they read records, and need no torch. An
# environment without it shows that they do not.
REPORT = (
    *("jinja2", "markdown-it-py", "matplotlib", "msgspec", "pandas", "plotly", "rich", "seaborn"),
    *("tabulate", "typer"),
)
# Tests run tiny tensors: a second thread only waits, and on a busy machine for long. A second
# process does not; and each of three imports and compiles less than each of two.
PARALLEL = ("-n", str(max(3, os.cpu_count() or 1)), "--dist", "worksteal")
# Threads of autograd would each leave behind an arena that is half empty.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}

PINNED = re.search(r"^torch==(.+)$", CONSTRAINTS.read_text(), re.MULTILINE)[1]
NEWEST = "2.14.1"
TORCH = ("2.9.1", PINNED, NEWEST)  # the oldest supported, the pinned one, the newest tried
# What PyTorch decides: the contract, and what it is built on.
CONTRACT = (
    *("contract", "apply", "execute", "policies", "overlapped", "memory_budget", "compile"),
    "foreign_budgets",
)
# Of a process: a torch that is not the pinned one may be larger.
MOST_BYTES = 1_500_000_000


def install(session, *extras, constraints=CONSTRAINTS):
    """Install the project with some extras, every version pinned.

    Not compiled to byte code: of PyTorch that takes three times as long as the rest, and Python
    does it for what is imported.
    """
    target = f".[{','.join(extras)}]" if extras else "."
    session.install("--no-compile", "-c", str(constraints), "-e", target)


def constrained(session, torch):
    """All versions as they are pinned, but for another torch."""
    pins = Path(session.create_tmp()) / "constraints.txt"
    pins.write_text(CONSTRAINTS.read_text().replace(f"torch=={PINNED}\n", f"torch=={torch}\n"))
    return pins


def hashed(report):
    """The requirements of an installation, from pip's report of it."""
    here = report["environment"]
    where = f"{here['python_version']} on {here['sys_platform']} {here['platform_machine']}"
    head = f"""\
# The environment of the tests, each file by its hash. Made by `nox -s hashes`, for CPython {where}.
# Another kind of machine has other files: make it there. torch is the wheel that was found where
# this was made; +cpu is the build without CUDA, which the package index does not have.
"""
    lines = []
    for one in report["install"]:
        known = one["download_info"].get("archive_info", {}).get("hashes")
        if known:  # the project itself has none
            name, version = one["metadata"]["name"], one["metadata"]["version"]
            lines.append(f"{name}=={version} --hash=sha256:{known['sha256']}\n")
    return head + "".join(sorted(lines, key=str.lower))


def chosen(session, libraries):
    """Arguments of ``bench models``: those libraries, if the user names no models."""
    named = {"--only", "--library"} & set(session.posargs)
    return [*([] if named else [f"--library={name}" for name in libraries]), *session.posargs]


@nox.session
def tests(session):
    """Run the tests; arguments go to pytest: -- --long."""
    install(session, "test", "transformers", "train", "slurm")
    session.run("python", "tests/warm.py", env=ONE_THREAD)
    session.run("pytest", *PARALLEL, *session.posargs, env=ONE_THREAD)


@nox.session
def lint(session):
    """Check style, formatting, and that imports run down only."""
    session.install("--no-compile", "-c", str(CONSTRAINTS), "ruff", "import-linter")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")


@nox.session
def types(session):
    """Check types, strictly."""
    install(session, "lint")
    session.run("mypy")


@nox.session(default=False)
@nox.parametrize("torch", TORCH, ids=TORCH)
def compat(session, torch):
    """Run the contract's tests on the oldest torch, the pinned one and the newest tried.

    Warnings are errors, as in every test run. Without transformers, whose tests are not among
    these, and which need not support these versions of torch.
    """
    install(session, "test", constraints=constrained(session, torch))
    files = [f"tests/test_{name}.py" for name in CONTRACT]
    bound = f"--most-bytes={MOST_BYTES}"
    session.run("pytest", *PARALLEL, bound, *files, *session.posargs, env=ONE_THREAD)


@nox.session(default=False)
def bench(session):
    """Measure a suite (quick, if none is named), write and print the tables: -- --suite full."""
    install(session)
    session.run("python", "-m", "bench", "sweep", *session.posargs)


@nox.session(default=False)
def sweep(session):
    """Measure a suite in jobs: -- --executor slurm --device cuda --gres gpu:1; or local."""
    install(session, "slurm")
    session.run("python", "-m", "bench", "sweep", *session.posargs)


@nox.session(default=False)
def validate(session):
    """Simulate and run the same cells side by side, on the device that is here."""
    install(session)
    session.run("python", "-m", "bench", "validate", *session.posargs)


@nox.session(default=False)
def models(session):
    """Train real architectures, tiny, under the strategies: -- --only gpt2 --only t5."""
    install(session, "transformers", "diffusers")
    libraries = ("torch", "transformers", "diffusers")
    session.run("python", "-m", "bench", "models", *chosen(session, libraries), env=ONE_THREAD)


@nox.session(default=False)
def images(session):
    """The same for timm and torchvision, whose wheels import beside the newest torch alone.

    On a machine for CUDA: that torch is 5.5 GB.
    """
    install(session, "images", "test", constraints=constrained(session, NEWEST))
    own = ("--long", "tests/test_own_models.py", "-k", "libraries")
    session.run("pytest", *own, env=ONE_THREAD)
    libraries = ("timm", "torchvision")
    session.run("python", "-m", "bench", "models", *chosen(session, libraries), env=ONE_THREAD)


@nox.session(default=False)
def peers(session):
    """Measure other people's checkpointing beside ours, and write the table: -- --rounds 20."""
    install(session, "transformers", "peers", "test")
    session.run("pytest", "tests/test_peers.py", env=ONE_THREAD)
    session.run("python", "-m", "bench", "peers", *session.posargs)


@nox.session(default=False)
def promises(session):
    """Promise budgets to training loops and measure their peaks: -- --only t5."""
    install(session, "transformers")
    session.run("python", "-m", "bench", "promises", *session.posargs)


@nox.session(default=False)
def contest(session):
    """Let `auto` meet every contender within the same budgets: -- --only t5 --budgets 10."""
    install(session, "transformers")
    session.run("python", "-m", "bench", "contest", *session.posargs)


@nox.session(default=False)
def tables(session):
    """Regenerate tables, figures and the README's table from results/raw: -- --check."""
    session.install("--no-compile", "-c", str(CONSTRAINTS), *REPORT)
    session.run("python", "-m", "bench", "tables", *session.posargs)


@nox.session(default=False)
def report(session):
    """Write results/report.html, one page of everything that is stored: -- --output page.html."""
    session.install("--no-compile", "-c", str(CONSTRAINTS), *REPORT)
    session.run("python", "-m", "bench", "report", *session.posargs)


@nox.session(default=False)
def coverage(session):
    """Count the lines and branches that the tests run; half an hour: -- --long, --write, files."""
    install(session, "coverage", "docs", "test", "transformers", "train", "slurm")
    env = ONE_THREAD | {"PYTHONPATH": "tests"}
    session.run("python", "-m", "covered", *session.posargs, env=env)


@nox.session(default=False)
def mutants(session):
    """Mutate plans and solvers, and count what the tests notice; half an hour: -- --all."""
    install(session, "mutants", "test")
    session.run("pytest", "tests/test_mutants.py", "--long", env=ONE_THREAD)
    env = ONE_THREAD | {"PYTHONPATH": "tests"}
    session.run("python", "-m", "mutants", *session.posargs, env=env)


@nox.session(default=False)
def hashes(session):
    """Write down what each pinned file of the tests' environment must hash to: -- --check."""
    file = Path(session.create_tmp()) / "report.json"
    given = ("--quiet", "--dry-run", "--ignore-installed", "--report", str(file))
    target = f".[{','.join(HASHED)}]"
    session.run("python", "-m", "pip", "install", *given, "-c", str(CONSTRAINTS), target)
    text = hashed(json.loads(file.read_text()))
    if "--check" not in session.posargs:
        REQUIREMENTS.write_text(text)
    elif text != REQUIREMENTS.read_text():
        session.error(f"{REQUIREMENTS} is stale, or this is another kind of machine")


@nox.session(default=False)
def hashed_install(session):
    """Install nothing but files of known hashes, and test: -- tests/test_plan.py."""
    given = ("--no-compile", "--no-deps", "--require-hashes")
    session.install(*given, "-r", str(REQUIREMENTS))
    session.install("--no-deps", "-e", ".")
    session.run("pytest", *(session.posargs or ["tests/test_plan.py"]), env=ONE_THREAD)


@nox.session(default=False)
def audit(session):
    """Look the pinned versions up among known vulnerabilities, where that data can be reached."""
    session.install("--no-compile", "-c", str(CONSTRAINTS), "pip-audit")
    file = Path(session.create_tmp()) / "audit.json"
    file.unlink(missing_ok=True)
    given = ("-r", str(CONSTRAINTS), "--no-deps", "--disable-pip", "-f", "json", "-o", str(file))
    session.run("pip-audit", *given, success_codes=[0, 1], silent=True)
    found = json.loads(file.read_text())["dependencies"] if file.exists() else []
    seen = [one for one in found if "skip_reason" not in one]
    if not seen:
        session.skip("no data on any pinned version can be reached from here")
    session.log(f"{len(seen)} of {len(found)} pinned versions looked up")
    bad = [f"{one['name']} {one['version']}: {v['id']}" for one in seen for v in one["vulns"]]
    if bad:
        session.error("; ".join(bad))


@nox.session(default=False)
def trust(session):
    """Count what the tests inject, in docs/trust.md: -- --check."""
    install(session, "test")
    session.run("python", "tests/trust.py", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session(default=False)
def docs(session):
    """Build the documentation site, build/site; every warning is an error: -- --serve."""
    install(session, "docs")
    session.run("python", "-m", "bench.site", "--check")
    served = "--serve" in session.posargs
    session.run("python", "-m", "mkdocs", *(["serve"] if served else ["build", "--strict"]))


@nox.session(default=False)
def compare(session):
    """Compare two sets of records: -- A B --fail-on peak_allocated_bytes:1%."""
    session.install("--no-compile", "-c", str(CONSTRAINTS), *REPORT)
    session.run("python", "-m", "bench", "compare", *session.posargs)
