"""pytest-benchmark's front end: which items run, and what a comparison may compare.

``pytest`` runs the tests; with any benchmark option (``--benchmark-compare``,
``--benchmark-only`` …) it runs the benchmarks in ``bench/`` instead.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

# As the harness's own processes do: threads that spin while they wait make every step slow as soon
# as the machine has something else to do. Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

BENCHMARKS = "bench"  # the folder
# What must agree for two timings to say anything about each other.
COMPARABLE = ("device", "device_name", "torch_version", "threads")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the benchmarks."""
    group = parser.getgroup("ckpt-bench")
    group.addoption("--workload", default="gpt-mini", help="workload of the benchmarks")
    group.addoption("--device", default="", help="device of the benchmarks")
    group.addoption("--rounds", type=int, default=5, help="timed rounds of the benchmarks")
    group.addoption("--long", action="store_true", help="run what takes long, too")
    group.addoption(
        "--most-bytes",
        type=int,
        help="that a process of the tests may have resident; no bound on a long run",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Save the first run that asks for a comparison: it is the baseline of the next."""
    if config.getoption("benchmark_compare", None) is not True or _baselines(config):
        return
    config.option.benchmark_autosave = "baseline"
    config.option.benchmark_compare = False
    _say(config, "no baseline in results/benchmarks: this run becomes the baseline")


def _baselines(config: pytest.Config) -> list[Path]:
    storage = str(config.getoption("benchmark_storage")).removeprefix("file://")
    return list((config.rootpath / storage).rglob("*.json"))


def _say(config: pytest.Config, text: str) -> None:
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(text)
    else:
        print(text)  # noqa: T201 - the reporter is not there yet


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Benchmarks or tests, not both, unless paths were given."""
    if any(_is_path(config, argument) for argument in config.invocation_params.args):
        return
    wanted = asks_for_benchmarks(config)
    dropped = [item for item in items if (item.path.parent.name == BENCHMARKS) != wanted]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def _is_path(config: pytest.Config, argument: object) -> bool:
    text = str(argument).partition("::")[0]
    return not text.startswith("-") and (config.invocation_params.dir / text).exists()


def asks_for_benchmarks(config: pytest.Config) -> bool:
    """Whether an option of pytest-benchmark asks for timings."""
    names = ("compare", "compare_fail", "only", "save", "autosave", "json", "histogram", "enable")
    return any(config.getoption(f"benchmark_{name}", None) for name in names)


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Name what pytest-benchmark's machine id does not: device, torch, threads."""
    import torch  # noqa: PLC0415 - only benchmarks need it

    from bench import devices  # noqa: PLC0415

    device = config.getoption("device") or devices.default()
    machine_info["device"] = device
    machine_info["device_name"] = devices.describe(torch.device(device))
    machine_info["torch_version"] = str(torch.__version__)
    machine_info["threads"] = torch.get_num_threads()


def pytest_benchmark_compare_machine_info(
    machine_info: dict[str, Any], compared_benchmark: dict[str, Any]
) -> None:
    """Refuse a baseline of another device, torch or number of threads.

    Raises:
        pytest.UsageError: names what differs.
    """
    then = compared_benchmark["machine_info"]
    different = [
        f"{name} was {then.get(name)!r} and is {machine_info[name]!r}"
        for name in COMPARABLE
        if then.get(name) != machine_info[name]
    ]
    if different:
        raise pytest.UsageError(
            f"the baseline cannot be compared: {'; '.join(different)}. Choose another with"
            " --benchmark-compare=NUMBER, or make one here with --benchmark-autosave"
        )
