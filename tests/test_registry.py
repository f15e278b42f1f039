"""Names, parameters and specifications; strategies of this package and of others."""

import dataclasses
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies
from strategies import Strategy
from strategies.compressed import Compressed
from strategies.contract import registry
from strategies.every_k import EveryK
from strategies.offload import Offload
from strategies.storage import CODECS

GRID = [strategy for cls in registry.classes().values() for strategy in cls.grid()]
COOKED = '''
import dataclasses
from strategies.contract.strategy import Strategy
from strategies.schedules.plan import plain


@dataclasses.dataclass(frozen=True, kw_only=True)
class {name}(Strategy):
    """Keeps everything but the first block."""

    salt: int = 1

    def plan(self, chain):
        return ((0,), *plain(len(chain))[1:])
'''


@pytest.fixture
def fresh():
    """Looks for strategies anew, and again afterwards."""
    registry.classes.cache_clear()
    yield
    registry.classes.cache_clear()


@pytest.fixture
def folder(tmp_path, monkeypatch, fresh):
    """A folder whose files belong to the package for one test."""
    monkeypatch.setattr(strategies, "__path__", [*strategies.__path__, str(tmp_path)])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("strategies."):
            del sys.modules[name]


# What there is.


def test_the_strategies_of_this_package():
    assert set(strategies.available()) >= {
        *("none", "every_layer", "every_k", "sqrt", "selective"),
        *("offload", "compressed", "flash_checkpoint"),
    }
    assert list(strategies.available()) == sorted(strategies.available())
    for name, cls in registry.classes().items():
        assert cls.name() == name
        assert cls.__doc__
        assert not cls.__doc__.startswith(cls.__name__ + "(")  # a dataclass's own
        assert strategies.get(name) == cls()
        assert len(cls.grid()) >= 1
        assert cls.textbook_memory is None or isinstance(cls.textbook_memory, str)


@pytest.mark.parametrize("strategy", GRID, ids=Strategy.spec)
def test_a_strategy_is_a_frozen_value(strategy):
    assert dataclasses.is_dataclass(strategy)
    assert strategy == dataclasses.replace(strategy)
    assert len({strategy, dataclasses.replace(strategy)}) == 1
    for field in dataclasses.fields(strategy):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(strategy, field.name, getattr(strategy, field.name))
        assert field.default is not dataclasses.MISSING
    assert strategy.params().keys() == {f.name for f in dataclasses.fields(strategy)}


@pytest.mark.parametrize("strategy", GRID, ids=Strategy.spec)
def test_a_specification_is_read_back(strategy):
    assert strategies.get(strategy.spec()) == strategy
    assert strategies.get(strategy.spec()).spec() == strategy.spec()
    assert strategies.get(strategy) is strategy


def test_specifications_of_a_grid_differ():
    assert len({strategy.spec() for strategy in GRID}) == len(GRID)


specs = st.recursive(
    st.one_of(
        st.sampled_from(["none", "every_layer", "selective", "selective(variant=attention_core)"]),
        st.integers(1, 99).map("every_k(k={})".format),
        st.booleans().map("sqrt(keep_last={})".format),
    ),
    lambda below: st.one_of(
        st.builds("offload(over={}, tier={})".format, below, st.sampled_from(["auto", "disk"])),
        st.builds(
            "compressed(over={}, codec={}, group={}, ratio={})".format,
            below,
            st.sampled_from([name for name in CODECS if name != "raw"]),
            st.integers(1, 99).map(lambda n: 2 * n),
            st.floats(0.01, 1.0),
        ),
        st.builds("flash_checkpoint(over={})".format, below),
    ),
    max_leaves=4,
)


@given(specs)
def test_any_specification_is_read_back(spec):
    strategy = strategies.get(spec)
    assert strategies.get(strategy.spec()) == strategy
    assert strategies.get(strategy.spec()).exact == strategy.exact


@given(st.text())
def test_any_folder_is_read_back(tmp_path_factory, text):
    directory = tmp_path_factory.getbasetemp()
    strategy = Offload(directory=str(directory))
    assert strategies.get(strategy.spec()) == strategy
    object.__setattr__(strategy, "directory", text)  # past the check that it exists
    written = strategy.spec()
    assert registry._parse(written) == ("offload", {"directory": text} if text else {})


def test_parameters_win_over_those_in_the_text():
    assert strategies.get("every_k(k=2)", k=3) == EveryK(k=3)
    assert strategies.get(EveryK(k=2), k=5, keep_last=True) == EveryK(k=5, keep_last=True)
    assert strategies.get(" every_k ( k = 7 ) ") == EveryK(k=7)
    assert strategies.get("none()") == strategies.get("none")
    assert strategies.get("every_k", k="6") == EveryK(k=6)  # as a command line gives it
    assert strategies.get("sqrt", keep_last="False").params() == {"keep_last": False}
    assert strategies.get("compressed", codec="projection", ratio=1).params()["ratio"] == 1.0
    assert strategies.get("offload(over='every_k( k=2 )')").below() == EveryK(k=2)
    assert strategies.get("compressed(codec='int8')") == Compressed(codec="int8")


def test_names_of_classes():
    assert EveryK.name() == "every_k"
    assert Compressed.name() == "compressed"
    assert EveryK(k=4).spec() == "every_k(k=4)"
    assert EveryK(k=4, keep_last=True).spec() == "every_k(k=4, keep_last=True)"
    assert strategies.get("sqrt").spec() == "sqrt"
    assert strategies.get("offload(over=sqrt)").spec() == "offload(over=sqrt)"


# What there is not.


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sqr", r"unknown strategy 'sqr' \(did you mean 'sqrt'\?\); there are .*every_k"),
        ("zzz", r"unknown strategy 'zzz'; there are auto, binomial, compressed, every_k"),
        ("every_k(n=4)", r"strategy 'every_k' has no parameter 'n'; it has k, keep_last"),
        ("none(k=4)", r"strategy 'none' has no parameter 'k'; it has none"),
        ("every_k(k=0)", r"k must be at least 1 \(1 is every_layer\), not 0"),
        ("every_k(k=-1)", r"k must be at least 1 \(1 is every_layer\), not -1"),
        ("every_k(k=1.5)", r"k must be of type int, not 1.5"),
        ("every_k(k=True)", r"k must be of type int, not True"),
        ("every_k(k=four)", r"k must be of type int, not 'four'"),
        ("every_k(k=[4])", r"k must be of type int, not \[4\]"),
        ("every_k(k=None)", r"k must be of type int, not None"),
        ("every_k(keep_last=1)", r"keep_last must be of type bool, not 1"),
        ("sqrt(keep_last=yes)", r"keep_last must be of type bool, not 'yes'"),
        ("every_k(4)", r"cannot read strategy 'every_k\(4\)'; write a name, or name\(parameter="),
        ("every_k(**{'k': 4})", r"strategy 'every_k' has no parameter 'None'; it has k, keep_last"),
        ("every_k(k={[]: 1})", r"cannot read strategy"),
        ("every_k(k=1 + x)", r"cannot read strategy"),
        ("every_k(k=4", r"cannot read strategy"),
        ("", r"cannot read strategy ''"),
        ("a.b", r"cannot read strategy 'a.b'"),
        ("a.b(c=1)", r"cannot read strategy"),
        ("sqrt; none", r"cannot read strategy"),
        ("selective(variant=all)", r"variant must be one of textbook, attention_core, not 'all'"),
        ("compressed(codec=raw)", r"codec must be one of fp16, bf16, int8, int4, projection, not"),
        ("compressed(codec=zip)", r"codec must be one of .* not 'zip'"),
        ("compressed(codec=int8, group=3)", r"group must be an even number of at least 2, not 3"),
        ("compressed(codec=int4, group=0)", r"group must be an even number of at least 2, not 0"),
        ("compressed(codec=projection, ratio=0)", r"ratio must be above 0 and at most 1, not 0.0"),
        ("compressed(codec=projection, ratio=2)", r"ratio must be above 0 and at most 1, not 2.0"),
        ("offload(tier=tape)", r"tier must be one of auto, host, disk, not 'tape'"),
        ("offload(directory='/no/where')", r"directory '/no/where' does not exist"),
        ("offload(over=sqr)", r"unknown strategy 'sqr' \(did you mean 'sqrt'"),
        ("offload(over=every_k(k=0))", r"k must be at least 1"),
        ("flash_checkpoint(over=offload(over=x(y=1)))", r"unknown strategy 'x'"),
    ],
)
def test_errors_say_what_is_valid(spec, message):
    with pytest.raises(ValueError, match=message):
        strategies.get(spec)


def test_errors_of_parameters_given_by_name():
    for spec in ("every_k", EveryK()):
        with pytest.raises(ValueError, match="has no parameter 'n'; it has k, keep_last"):
            strategies.get(spec, n=4)
        with pytest.raises(ValueError, match="k must be of type int, not 'x'"):
            strategies.get(spec, k="x")
        with pytest.raises(ValueError, match=r"k must be of type int, not '\{"):
            strategies.get(spec, k="{[]: 1}")


@pytest.mark.parametrize(
    "spec",
    [
        "every_k(k=__import__('pathlib').Path('ran').touch())",
        "every_k(k=[__import__('pathlib').Path('ran').touch()])",
        "offload(over=__import__('pathlib').Path('ran').touch())",
        "offload(over=every_k(k=__import__('pathlib').Path('ran').touch()))",
        "(lambda: __import__('pathlib').Path('ran').touch())()",
        "__import__('pathlib').Path('ran').touch()",
        "every_k(k=open('ran', 'w').write('x'))",
        "every_k(k=(ran := 4))",
    ],
)
def test_a_specification_is_never_run(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"cannot read strategy|must be of type|unknown strategy"):
        strategies.get(spec)
    assert not list(tmp_path.iterdir())


# Strategies from elsewhere.


def test_a_file_in_the_folder_is_all_that_it_takes(tmp_path):
    package = Path(strategies.__file__).parent
    shutil.copytree(package, tmp_path / "strategies", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "strategies" / "cooked.py").write_text(COOKED.format(name="CookedMeal"))
    code = (
        "import strategies, torch\n"
        "from torch import nn\n"
        "assert 'cooked_meal' in strategies.available()\n"
        "model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))\n"
        "applied = strategies.apply(model, 'offload(over=cooked_meal(salt=3))')\n"
        "model(torch.ones(1, 2)).sum().backward()\n"
        "print(strategies.__file__, applied.plan, applied.strategy.below().salt)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1)[0] == str(tmp_path / "strategies" / "__init__.py")
    assert done.stdout.endswith(" ((0,), 1) 3\n")


def test_a_file_is_found_in_this_process_too(folder):
    (folder / "cooked.py").write_text(COOKED.format(name="Cooked"))
    assert "cooked" in strategies.available()
    assert strategies.get("cooked(salt=2)").spec() == "cooked(salt=2)"
    with pytest.raises(ValueError, match="it has salt"):
        strategies.get("cooked(pepper=2)")


def test_two_strategies_of_one_name(folder):
    (folder / "cooked.py").write_text(COOKED.format(name="EveryK"))
    with pytest.raises(RuntimeError, match=r"named 'every_k': strategies\.\w+ and strategies\.\w+"):
        strategies.available()


def test_classes_that_a_file_imports_are_not_its_own(folder, monkeypatch):
    base = type("Base", (Strategy,), {})
    monkeypatch.setitem(sys.modules, "elsewhere", types.SimpleNamespace(Base=base))
    (folder / "cooked.py").write_text(
        "from elsewhere import Base\n"
        "from strategies import Layered, Strategy\n"
        "from strategies.every_k import EveryK\n"
    )
    assert not {"base", "layered", "strategy"} & set(strategies.available())
    assert registry.classes()["every_k"] is EveryK


def test_the_classes_cannot_be_changed():
    with pytest.raises(TypeError):
        registry.classes()["x"] = EveryK
