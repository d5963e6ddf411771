"""Directories of the cache that are made whole or not at all; apart, since wheels and Debian packages both need it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path


def made_once(target: Path, make: Callable[[Path], None]) -> Path:
    """Return the directory `target`; unless it is there, `make` writes it elsewhere, and it is moved into its place.

    Of several builds at once the first one's directory stays.
    """
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            made = Path(scratch, "made")
            make(made)
            try:
                made.rename(target)
            except OSError:  # another build was faster
                if not target.is_dir():
                    raise
    return target
