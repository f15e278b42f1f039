"""Imported once, for all processes of cells: what the first checkpoint imports, a second's work.

PyTorch makes the folder of its compiler's cache as `torch._dynamo` is imported, which every
checkpoint does. One that is there takes its place meanwhile: where the compiler's cannot be made,
what compiles will say so, and nothing else needs it.
"""

from __future__ import annotations

import os
import tempfile
from unittest import mock

with mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=tempfile.gettempdir()):
    import torch._dynamo  # noqa: F401
