"""Advice on one model and one device: does it fit, what to do, what it costs, what else helps."""

from __future__ import annotations

from bench import make_callable

make_callable(__name__)
