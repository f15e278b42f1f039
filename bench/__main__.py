"""The command line: ``python -m bench``. Bad input exits 2 with one sentence, never a traceback.

Results go to stdout, everything else to stderr. `run` and `sweep` exit 1 if a cell ended in
``mismatch``, ``crash`` or ``timeout``; ``oom`` and ``unsupported`` are answers. `compare` exits 3
if it cannot tell.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable

import msgspec
import typer

from bench.cli import (
    advise,
    budgets,
    clusters,
    contest,
    coverage,
    frontier,
    listing,
    measure,
    merge,
    models,
    names,
    numbers,
    pays,
    peers,
    plan,
    profile,
    promises,
    published,
    report,
    solvers,
    sweep,
)

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
COMMANDS: dict[str, Callable[..., None]] = {
    "list": listing.list_,
    "run": measure.run,
    "advise": advise.advise,
    "sweep": sweep.sweep,
    "merge": merge.merge,
    "validate": measure.validate,
    "tables": report.tables,
    "claims": report.claims,
    "compare": report.compare,
    "report": report.report,
    "profile": profile.profile,
    "plan": plan.plan,
    "solvers": solvers.solvers,
    "budgets": budgets.budgets,
    "frontier": frontier.frontier,
    "models": models.models,
    "promises": promises.promises,
    "contest": contest.contest,
    "coverage": coverage.coverage,
    "clusters": clusters.clusters,
    "published": published.published,
    "peers": peers.peers,
    "pays": pays.pays,
}
for name, function in COMMANDS.items():
    app.command(name)(function)

INTERRUPTED = 130  # what the command-line library makes of KeyboardInterrupt


def main() -> None:
    """Run the command line; errors of the user end in one sentence and exit code 2."""
    # Before torch is imported: threads that spin while they wait make timed steps slow.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)  # noqa: T201
    try:
        if sys.argv[1:2] and sys.argv[1] in COMMANDS:
            numbers.check(COMMANDS[sys.argv[1]], sys.argv[2:])
            if "torch" not in sys.modules:  # else there is nothing to wait for
                names.check(sys.argv[2:])
        code = app(standalone_mode=False, prog_name="python -m bench")
    except (ValueError, OSError, msgspec.MsgspecError) as error:
        sys.exit(_complain(str(error)))
    except Exception as error:
        if not hasattr(error, "format_message"):  # a usage error of the command-line library
            raise
        sys.exit(_complain(error.format_message()))
    if code == INTERRUPTED:
        print("interrupted; run the same command again to resume", file=sys.stderr)  # noqa: T201
    sys.exit(code or 0)


def _complain(sentence: str) -> int:
    if sentence:  # none where the help was printed instead
        print(f"error: {sentence}", file=sys.stderr)  # noqa: T201
    return 2


if __name__ == "__main__":
    main()
