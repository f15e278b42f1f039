"""``python -m bench pays``: where does checkpointing start to pay?"""

from __future__ import annotations

import typer

from bench.cli import flags
from bench.cli.measure import finish
from bench.cli.progress import reporter
from bench.store.json_store import RESULTS, check_writable


def pays(
    timeout: flags.Timeout = 600.0,
    results: flags.ResultsOption = RESULTS,
) -> None:
    """Simulate models of growing size, and one at growing length; write table and figure.

    About 60 cells of some seconds each. Stored under pays/ in the results.
    """
    from bench.report import pays as report
    from bench.report import regenerate
    from bench.run import sweep
    from bench.studies import pays as study

    cells = study.cells()
    check_writable(results)
    with reporter(len(cells)) as progress:
        records = sweep.run(cells, report.within(results), progress, timeout_s=timeout)
    regenerate.regenerate(results, regenerate.readme_of(results))
    typer.echo((results / regenerate.TABLES / "pays.md").read_text(), nl=False)
    finish(records)
