"""Automation: ``nox -s bench`` measures, ``nox -s tests`` tests; ``nox -l`` lists the rest."""

import nox

nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True
nox.options.sessions = ["tests", "lint", "types"]

# One environment for all sessions: torch takes a minute to install and 1 GB to keep.
SHARED = ".nox/ckpt-bench"


def install(session, *extras):
    """Install the project with some extras, every version pinned."""
    target = f".[{','.join(extras)}]" if extras else "."
    session.install("-c", "constraints.txt", "-e", target)


@nox.session(venv_location=SHARED)
def tests(session):
    """Run the tests; arguments go to pytest."""
    install(session, "test", "transformers")
    session.run("pytest", *session.posargs)


@nox.session(venv_location=SHARED)
def lint(session):
    """Check style and formatting."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(venv_location=SHARED)
def types(session):
    """Check types, strictly."""
    install(session, "lint")
    session.run("mypy")


@nox.session(venv_location=SHARED, default=False)
def bench(session):
    """Measure the quick profile, write and print the tables: -- --profile full."""
    install(session)
    session.run("python", "-m", "bench", "sweep", *session.posargs)


@nox.session(venv_location=SHARED, default=False)
def validate(session):
    """Simulate and run the same cells side by side, on the device that is here."""
    install(session)
    session.run("python", "-m", "bench", "validate", *session.posargs)


@nox.session(venv_location=SHARED, default=False)
def tables(session):
    """Regenerate tables, figures and the README's table from results/raw: -- --check."""
    install(session)
    session.run("python", "-m", "bench", "tables", *session.posargs)


@nox.session(venv_location=SHARED, default=False)
def compare(session):
    """Compare two sets of records: -- A B --fail-on peak_allocated_bytes:1%."""
    install(session)
    session.run("python", "-m", "bench", "compare", *session.posargs)
