"""Automation: ``nox -s bench`` measures, ``nox -s tests`` tests; ``nox -l`` lists the rest."""

import nox

nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True
nox.options.sessions = ["tests", "lint", "types"]

# All that tables, figures and comparisons are made with: they read records, and need no torch.
REPORT = ("matplotlib", "msgspec", "pandas", "rich", "seaborn", "tabulate", "typer")


def install(session, *extras):
    """Install the project with some extras, every version pinned."""
    target = f".[{','.join(extras)}]" if extras else "."
    session.install("-c", "constraints.txt", "-e", target)


@nox.session
def tests(session):
    """Run the tests; arguments go to pytest."""
    install(session, "test", "transformers")
    # Tests run tiny tensors: a second thread only waits, and on a busy machine for long. A second
    # process does not.
    parallel = ("-n", "auto", "--dist", "worksteal")
    session.run("pytest", *parallel, *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def lint(session):
    """Check style and formatting."""
    session.install("-c", "constraints.txt", "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session):
    """Check types, strictly."""
    install(session, "lint")
    session.run("mypy")


@nox.session(default=False)
def bench(session):
    """Measure the quick profile, write and print the tables: -- --profile full."""
    install(session)
    session.run("python", "-m", "bench", "sweep", *session.posargs)


@nox.session(default=False)
def validate(session):
    """Simulate and run the same cells side by side, on the device that is here."""
    install(session)
    session.run("python", "-m", "bench", "validate", *session.posargs)


@nox.session(default=False)
def tables(session):
    """Regenerate tables, figures and the README's table from results/raw: -- --check."""
    session.install("-c", "constraints.txt", *REPORT)
    session.run("python", "-m", "bench", "tables", *session.posargs)


@nox.session(default=False)
def compare(session):
    """Compare two sets of records: -- A B --fail-on peak_allocated_bytes:1%."""
    session.install("-c", "constraints.txt", *REPORT)
    session.run("python", "-m", "bench", "compare", *session.posargs)
