"""Opening a file that people or other programs wrote: a regular one, of a bounded size, without ever waiting for it.

A separate module because everything that reads configuration has to be as careful: a named pipe never ends, a device
fills memory, and a path may hold what no path can.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_plain_file(path: Path, most: int) -> bytes:
    """Return the content of the regular file at `path`, cut after `most` + 1 bytes.

    Whoever gets more than `most` knows that it is too large. Raises OSError, also for a pipe, a device, a directory and
    a path with a NUL in it.
    """
    try:
        # Without waiting for a pipe's writer; asked after opening, so that nothing can be put in its place meanwhile.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except ValueError:
        raise OSError(errno.EINVAL, "no path can hold a NUL") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    with open(descriptor, "rb") as file:  # noqa: PTH123 - it is open already
        return file.read(most + 1)
