"""One cell, one process; and sweeps of them."""

from __future__ import annotations

from bench import make_callable

make_callable(__name__)
