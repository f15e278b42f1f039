"""Imported once, for all processes of cells: what each would import, which takes a second.

That is what the first checkpoint imports, and every workload and strategy of ours: a process whose
memory is limited may be unable to read a folder, which then looks empty.

PyTorch makes the folder of its compiler's cache as `torch._dynamo` is imported, which every
checkpoint does. One that is there takes its place meanwhile: where the compiler's cannot be made,
what compiles will say so, and nothing else needs it.
"""

from __future__ import annotations

import os
import tempfile
from unittest import mock

from bench import workloads
from strategies.contract import registry

workloads.available()
registry.classes()
with mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=tempfile.gettempdir()):
    import torch._dynamo  # noqa: F401
