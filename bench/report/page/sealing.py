"""What a page may run: scripts whose hash it names, and nothing else, whatever its records say."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
from collections.abc import Iterable


def policy(scripts: Iterable[str]) -> str:
    """A content security policy that lets these scripts run, and no request leave the page.

    Styles may stand in the page, because the drawing library writes its own; they run nothing.
    """
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    rules = (
        "default-src 'none'",
        f"script-src {hashes}",
        "style-src 'unsafe-inline'",
        "img-src data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(rules)


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@functools.cache
def packed(text: str) -> str:
    """``text`` as base64 of gzip, with no date in it: a third of the size."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
