"""The command line in this process: a process of its own would import for seconds."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import warnings
from unittest import mock

import torch

from bench import __main__ as command_line


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m bench …``: its exit code, and what it wrote."""
    out, err, threads = io.StringIO(), io.StringIO(), torch.get_num_threads()
    code: object = None
    with (
        mock.patch.object(sys, "argv", ["bench", *arguments]),
        mock.patch.object(warnings, "showwarning", warnings.showwarning),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            command_line.main()
        except SystemExit as exit_:
            code = exit_.code
        finally:
            torch.set_num_threads(threads)
    assert isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
