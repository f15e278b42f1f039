"""What strategies and reports may do; `lint-imports` holds who may import whom."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

from strategies.contract.registry import classes, peers

ROOT = Path(__file__).parent.parent
STRATEGIES = sorted((ROOT / "strategies").rglob("*.py"))
SOURCES = [*STRATEGIES, *sorted((ROOT / "bench").rglob("*.py"))]
SIDE_EFFECTS = {"logging", "time", "datetime", "warnings", "socket"}
CLOCK = "strategies/profiling/block_times.py"
WARNING = "strategies/contract/idle.py"
"""The one file that warns, once: notes are written before anything runs."""
WRITTEN_OUT = "strategies/execution/inventory.py"
"""The one file that runs a source: of numbers alone, as the standard library's dataclasses do."""
PRINTS = {"print", "input", "open", "exec", "eval", "compile", "breakpoint"}
REQUIREMENTS = {"bench", "pandas", "matplotlib", "msgspec", "rich", "typer", "transformers"}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def name_of(path):
    return path.relative_to(ROOT).as_posix()


class Source:
    """What a file imports and calls.

    Attributes:
        head: top-level names of the modules that its head imports.
        roots: of all modules that it imports, late ones too.
        calls: each call's dotted name, and its keywords.
    """

    def __init__(self, path):
        self.path = path
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = list(ast.walk(tree))
        self.head = set(self._roots(tree.body))
        self.roots = set(self._roots(nodes))
        self.calls = [
            (ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords})
            for node in nodes
            if isinstance(node, ast.Call)
        ]

    def _roots(self, nodes):
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path} imports relatively"
                yield str(node.module).partition(".")[0]


@functools.cache
def source(path):
    """Of a file: each is read once for all tests."""
    return Source(path)


def test_strategies_import_torch_and_the_standard_library_alone():
    allowed = {"torch", "strategies", *sys.stdlib_module_names}
    theirs = {cls.__module__.rpartition(".")[2]: cls.package for cls in peers().values()}
    for path in STRATEGIES:
        if "solvers" in path.parts:
            assert source(path).roots - allowed <= {"numpy", "numba", "highspy"}, path
        else:
            optional = theirs.get(path.stem, "flash_attn")
            assert source(path).roots - allowed <= {optional}, path
            assert source(path).head <= allowed, path


def test_strategies_have_no_side_effects():
    for path in STRATEGIES:
        warns = {"warnings"} if name_of(path) == WARNING else set()
        clock = {"time"} if name_of(path) == CLOCK else set()
        assert source(path).roots & SIDE_EFFECTS == warns | clock, path
        runs = {"exec"} if name_of(path) == WRITTEN_OUT else set()
        assert {called for called, _ in source(path).calls} & PRINTS == runs, path
        for called, _ in source(path).calls:
            assert not called.startswith(("torch.save", "sys.std")), path
            last = called.split(".")[-1]
            assert last not in {"write_text", "write_bytes"}, path
            timed = called.startswith("time.") or last == "perf_counter"
            assert not timed or name_of(path) == CLOCK, path
        warned = [called for called, _ in source(path).calls if called.split(".")[-1] == "warn"]
        assert len(warned) == len(warns), path


def test_files_are_written_by_the_spool_of_the_disk_tier_alone():
    for path in STRATEGIES:
        found = [called for called, _ in source(path).calls]
        writes = [called for called in found if called.endswith((".tofile", "write"))]
        temporary = {called for called in found if called.startswith("tempfile.mk")}
        if name_of(path) == "strategies/storage/spool.py":
            assert writes == ["os.pwrite"]
            assert temporary == {"tempfile.mkdtemp", "tempfile.mkstemp"}
        else:
            assert (writes, temporary) == (["handle.file.write"] * len(writes), set()), path
            assert not writes or name_of(path) == "strategies/storage/tiers.py"


def test_the_folder_of_strategies_holds_strategies_only():
    files = {path.stem for path in (ROOT / "strategies").glob("*.py")} - {"__init__"}
    own = {c.__module__.partition(".")[2] for c in classes().values()}
    assert files == own


def run(code, *options):
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_report_loads_no_torch():
    files = [*(ROOT / "bench/report").glob("*.py"), *(ROOT / "bench/store").glob("*.py")]
    modules = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files)
    code = (
        "import importlib, sys\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        "print(sorted({'torch', 'strategies'} & sys.modules.keys()))\n"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("module", ["bench", "bench.__main__"])
def test_what_answers_at_once_loads_neither_torch_nor_pandas(module):
    heavy = {"torch", "pandas", "matplotlib", "numpy", "scipy"}
    done = run(f"import sys, {module}\nprint(sorted({heavy} & sys.modules.keys()))\n")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "[]\n"


def test_strategies_load_neither_the_bench_nor_its_requirements():
    code = (
        "import sys, strategies\n"
        "strategies.get('offload(over=compressed(codec=int8, over=flash_checkpoint))')\n"
        f"print(sorted({REQUIREMENTS} & sys.modules.keys()))\n"
    )
    done = run(code, "-W", "error")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "[]\n"


def test_nothing_is_pickled():
    for path in SOURCES:
        assert not source(path).roots & PICKLES, path
        for called, given in source(path).calls:
            if called.endswith("torch.load"):
                assert given["weights_only"] == "True", path
