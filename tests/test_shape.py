"""Files and functions stay short enough to be read."""

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("strategies", "bench")
MOST_LINES_OF_A_FILE = 300
MOST_LINES_OF_THE_MEDIAN_FUNCTION = 8


def sources(root):
    """Each source file's name and text."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            yield str(path.relative_to(root)), path.read_text()


def long_files(root):
    """Names of the files that are too long, and their lines."""
    counts = {name: len(text.splitlines()) for name, text in sources(root)}
    return {name: lines for name, lines in counts.items() if lines > MOST_LINES_OF_A_FILE}


def function_lines(root):
    """The lines of every function, decorators and docstring included, by file and name."""
    lines = {}
    for file, text in sources(root):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                begin = min(part.lineno for part in (node, *node.decorator_list))
                lines[f"{file}:{begin} {node.name}"] = node.end_lineno - begin + 1
    return lines


def test_no_file_is_long():
    assert long_files(ROOT) == {}


def test_most_functions_are_short():
    lines = function_lines(ROOT)
    longest = sorted(lines, key=lines.get, reverse=True)[:20]
    median = statistics.median(lines.values())
    assert median <= MOST_LINES_OF_THE_MEDIAN_FUNCTION, "\n".join(longest)


@pytest.mark.parametrize(("lines", "named"), [(300, False), (301, True)])
def test_a_long_file_is_named(tmp_path, lines, named):
    (tmp_path / "bench" / "cli").mkdir(parents=True)
    (tmp_path / "bench" / "cli" / "long.py").write_text("x = 1\n" * lines)
    assert long_files(tmp_path) == ({"bench/cli/long.py": lines} if named else {})


def test_lines_of_a_function_are_counted_from_its_decorators(tmp_path):
    (tmp_path / "strategies").mkdir()
    text = "@cache\n@other\ndef outer():\n    def inner():\n        return 1\n    return inner\n"
    (tmp_path / "strategies" / "few.py").write_text(text)
    counts = {"strategies/few.py:1 outer": 6, "strategies/few.py:4 inner": 2}
    assert function_lines(tmp_path) == counts
