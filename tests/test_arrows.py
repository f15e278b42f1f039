"""Which part may import which, and what strategies may not do."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NUMBERS = ("plan", "cost", "link", "profile", "operators", "schedule")
STRATEGIES = sorted((ROOT / "strategies").rglob("*.py"))
PURE = [
    *(ROOT / "strategies" / f"{name}.py" for name in NUMBERS),
    *sorted((ROOT / "strategies" / "solvers").glob("*.py")),
]
REPORT = [
    *sorted((ROOT / "bench" / "report").rglob("*.py")),
    ROOT / "bench" / "claims.py",
    ROOT / "bench" / "records.py",
    ROOT / "bench" / "solver_records.py",
    ROOT / "bench" / "studies.py",
    ROOT / "bench" / "__init__.py",
]
SIDE_EFFECTS = {"logging", "time", "datetime", "warnings", "pickle", "shelve", "marshal", "socket"}


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


each = pytest.mark.parametrize("path", STRATEGIES, ids=name_of)


def imports(path, *, top_level=False):
    """Full names of the modules that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def roots(path, **options):
    return {name.split(".")[0] for name in imports(path, **options)}


def calls(path):
    """Each call in a file, with the dotted name that is called."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_there_are_files():
    assert len(STRATEGIES) > 15
    assert all(path.exists() for path in [*PURE, *REPORT])
    assert len(REPORT) > 5


@each
def test_strategies_import_torch_and_the_standard_library_alone(path):
    allowed = {"torch", "strategies", *sys.stdlib_module_names}
    if "solvers" in path.parts:
        assert roots(path) - allowed <= {"numpy", "numba", "highspy"}
    else:
        assert roots(path) - allowed <= {"flash_attn"}
        assert roots(path, top_level=True) <= allowed


@each
def test_strategies_have_no_side_effects(path):
    assert not roots(path) & SIDE_EFFECTS
    for called, node in calls(path):
        assert called not in {"print", "input", "open", "exec", "eval", "compile", "breakpoint"}
        assert not called.startswith(("torch.save", "sys.std", "time."))
        assert called.split(".")[-1] not in {"write_text", "write_bytes", "warn", "perf_counter"}
        if called == "torch.load":
            weights_only = [ast.unparse(k.value) for k in node.keywords if k.arg == "weights_only"]
            assert weights_only == ["True"]


@each
def test_files_are_written_by_the_disk_tier_alone(path):
    writes = [called for called, _ in calls(path) if called.endswith((".tofile", ".write"))]
    temporary = [called for called, _ in calls(path) if called.startswith("tempfile.")]
    if name_of(path) == "strategies/storage/tiers.py":
        assert len(writes) == len(temporary) == 1
    else:
        assert not writes + temporary


@pytest.mark.parametrize("path", PURE, ids=name_of)
def test_plans_and_solvers_know_no_torch(path):
    assert "torch" not in roots(path)
    for name in imports(path):
        if name.startswith("strategies"):
            assert name == "strategies" or name.split(".")[1] in (*NUMBERS, "solvers")


@pytest.mark.parametrize("path", REPORT, ids=name_of)
def test_the_report_imports_no_torch(path):
    assert not roots(path) & {"torch", "strategies"}
    for name in imports(path):
        if name.startswith("bench."):
            parent = name.rsplit(".", 1)[0]
            known = {module_of(p) for p in REPORT}
            assert name in known or parent in known, f"{path} imports {name}"


def test_the_report_loads_no_torch():
    modules = [module_of(path) for path in REPORT]
    code = (
        "import importlib, sys\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        "assert {'torch', 'strategies'}.isdisjoint(sys.modules), sorted(sys.modules)\n"
        "print(len(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > len(modules)


def test_strategies_load_neither_the_bench_nor_its_requirements():
    code = (
        "import sys, strategies\n"
        "strategies.get('offload(over=compressed(codec=int8, over=flash_checkpoint))')\n"
        "heavy = {'bench', 'pandas', 'matplotlib', 'msgspec', 'rich', 'typer', 'transformers'}\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "path", sorted([*STRATEGIES, *(ROOT / "bench").rglob("*.py")]), ids=name_of
)
def test_nothing_is_pickled(path):
    assert not roots(path) & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}
    for called, node in calls(path):
        if called.endswith("torch.load") or called == "torch.load":
            assert {k.arg: ast.unparse(k.value) for k in node.keywords}["weights_only"] == "True"
