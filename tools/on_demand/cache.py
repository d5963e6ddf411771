"""Where tests on demand keep what they fetched or built, so that it is done once."""

from __future__ import annotations

import os
import pwd
from pathlib import Path


def home() -> Path:
    """Return the user's home; in a test of Bazel, HOME is another place each time."""
    return Path(pwd.getpwuid(os.getuid()).pw_dir)


def cache(kind: str) -> Path:
    """Return the directory for things of a kind, below `$XDG_CACHE_HOME` or `~/.cache`; it may not be there yet."""
    named = os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named else home() / ".cache") / "policy-engine" / kind
